#include "plugins/overlay.h"

#include "base/error.h"
#include "plugins/test_support.h"

using namespace stasis;
using namespace stasis::plugins;

TEST_CASE("an overlay tells its layers") {
  CHECK(Overlay().explain("lowerdir+=/a,lowerdir+=/b,index=off") ==
        std::vector<std::string>{"lowerdir+ : /a", "lowerdir+ : /b"});
}

TEST_CASE("an overlay is mounted from its description") {
  Directory tree;
  tree.write("low/file", "from below");
  for (const char* name : {"up", "work"}) std::filesystem::create_directory(tree.path / name);
  std::string at = tree.path;
  UniqueFd mount = Overlay().make("lowerdir=" + at + "/low,upperdir=" + at + "/up,workdir=" + at +
                                  "/work,xino=off");
  std::ifstream file("/proc/self/fd/" + std::to_string(mount.get()) + "/file");
  std::string text;
  std::getline(file, text);
  CHECK(text == "from below");
  CHECK_THROWS_AS(Overlay().make("lowerdir=l/ABC:l/DEF"), Error);
  CHECK_THROWS_AS(Overlay().make("lowerdir=/a:/" + std::string(5000, 'b')), Error);
}
