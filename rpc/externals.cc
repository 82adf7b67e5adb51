#include "rpc/externals.h"

#include <algorithm>
#include <iterator>

#include "base/text.h"

namespace stasis::rpc {
namespace {

constexpr std::string_view namespace_kinds[] = {"net",  "pid",  "ipc",   "uts",
                                                "user", "time", "cgroup"};
// CRIU's other kinds.
constexpr std::string_view other_kinds[] = {"mnt",  "dev",     "tty",    "file",
                                            "unix", "macvlan", "netdev", "veth"};

template <typename List>
bool contains(const List& list, std::string_view wanted) {
  return std::find(std::begin(list), std::end(list), wanted) != std::end(list);
}

}  // namespace

Error unsupported(const std::string& option, const std::string& remedy) {
  return Error("do what " + option + " asks for", "")
      .because("stasis doesn't support it yet")
      .hint(remedy);
}

External parse_external(const std::string& text) {
  size_t open = text.find('[');
  size_t close = text.find(']', open == text.npos ? 0 : open);
  // A path may hold brackets itself: the one that ends it stands before ":" or the end.
  while (close != text.npos && close + 1 < text.size() && text[close + 1] != ':')
    close = text.find(']', close + 1);
  if (open == text.npos || close == text.npos)
    throw Error("understand", "external " + text).because("expected TYPE[ID]:VALUE");
  External result{
      .kind = text.substr(0, open), .id = text.substr(open + 1, close - open - 1), .value = {}};
  if (close + 2 <= text.size()) result.value = text.substr(close + 2);
  return result;
}

bool is_namespace(std::string_view kind) { return contains(namespace_kinds, kind); }

std::vector<External> externals(const Options& opts, std::string_view kind) {
  std::vector<External> result;
  for (const std::string& text : opts.external())
    if (External external = parse_external(text); external.kind == kind)
      result.push_back(std::move(external));
  return result;
}

void check_externals(const Options& opts) {
  for (const std::string& text : opts.external()) {
    std::string kind = parse_external(text).kind;
    if (kind == "mnt" || kind == "dev" || kind == "unix" || contains(namespace_kinds, kind))
      continue;
    if (contains(other_kinds, kind))
      throw unsupported("external " + text,
                        "only mnt[...], dev[...], unix[...] and namespaces can be external");
    std::vector<std::string> known(std::begin(namespace_kinds), std::end(namespace_kinds));
    known.insert(known.end(), std::begin(other_kinds), std::end(other_kinds));
    throw Error("understand", "external " + text)
        .because("there is no kind \"" + kind + "\"" + text::did_you_mean(kind, known))
        .hint("expected TYPE[ID]:VALUE, as in mnt[/vol]:NAME");
  }
}

}  // namespace stasis::rpc
