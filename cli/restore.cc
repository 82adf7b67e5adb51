#include "cli/restore.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "base/scope_exit.h"
#include "base/text.h"
#include "cli/checkpoint.h"
#include "cli/fit.h"
#include "cli/image_dir.h"
#include "cli/lock.h"
#include "cli/mounted_root.h"
#include "cli/page.h"
#include "cli/remap.h"
#include "cli/runc.h"
#include "kernel/directories.h"
#include "kernel/fs.h"
#include "mountmap/map_json.h"
#include "oci/document.h"

namespace stasis::cli {
namespace {

namespace fs = std::filesystem;

// The options with everything filled in that the checkpoint knows.
RestoreOptions complete(RestoreOptions options, const Manifest& manifest) {
  if (options.bundle.empty()) options.bundle = manifest.bundle;
  if (options.runc_root.empty()) options.runc_root = manifest.runc_root;
  if (options.runc_root.empty()) options.runc_root = oci::default_runc_root;
  if (options.bundle.empty())
    throw Error("restore", options.id)
        .because("its checkpoint wasn't made by stasis checkpoint and names no bundle")
        .hint("name it with --bundle DIR");
  options.bundle = fs::absolute(options.bundle).lexically_normal().string();
  if (!kernel::exists(options.bundle + "/config.json"))
    throw Error("restore", options.id)
        .because("there is no config.json in its bundle " + options.bundle)
        .hint("name the bundle with --bundle DIR");
  if (kernel::exists(options.runc_root + "/" + options.id))
    throw Error("restore", options.id)
        .because("runc has a container of this name already")
        .hint("runc delete " + options.id + ", or restore it under another id with --image " +
              options.image);
  return options;
}

// The text of config.json as runc is to have it.
std::string configure(const RestoreOptions& options, const image::Checkpoint& image) {
  std::string path = options.bundle + "/config.json";
  std::string text = kernel::read_file(path);
  if (options.maps.empty()) return text;
  oci::Config config = oci::parse_config(text, options.bundle, path);
  return mapped_config(text, options.bundle, parse_maps(options.maps, image, config));
}

// Before anything is made: what this restore does otherwise than the checkpoint
// was, and what of it can't be.
std::vector<mountmap::MapFinding> examine(const RestoreOptions& options,
                                          const image::Checkpoint& image, const oci::Config& config,
                                          const Manifest& manifest) {
  std::vector<mountmap::MapFinding> findings = compare(image, config, manifest.sources, options.id);
  for (const mountmap::MapFinding& finding : findings)
    if (is_obstacle(finding))
      throw Error("restore", options.id)
          .because(finding.subject + " " + finding.what)
          .hint(finding.remedy);
  for (const mountmap::MapFinding& finding : findings)
    fmt::print(stderr, "stasis: {}: {}\n", name_of(finding.severity), printable(one_line(finding)));
  return findings;
}

// Whether our descriptor 1 or 2 becomes the container's own.
bool becomes_containers(const std::string& image, int fd) {
  std::string path = image + "/descriptors.json";
  oci::Document document(kernel::read_file(path, 1 << 16), path);
  int index = 0;
  bool shared = false;
  document.root().each([&](const oci::Node& entry) {
    if (index++ == fd) shared = entry.as_string().find("pipe:") != std::string::npos;
  });
  return shared;
}

std::vector<std::string> runc_arguments(const RestoreOptions& options, const Manifest& manifest,
                                        const std::string& work) {
  std::string self = kernel::read_link("/proc/self/exe");
  std::vector<std::string> arguments = {
      "--root",       options.runc_root, "--criu",      self, "restore",  "--detach",
      "--image-path", options.image,     "--work-path", work, "--bundle", options.bundle};
  if (manifest.tcp_established) arguments.emplace_back("--tcp-established");
  if (manifest.file_locks) arguments.emplace_back("--file-locks");
  if (manifest.ext_unix_sk) arguments.emplace_back("--ext-unix-sk");
  if (manifest.shell_job) arguments.emplace_back("--shell-job");
  if (!options.console_socket.empty())
    arguments.insert(arguments.end(), {"--console-socket", options.console_socket});
  arguments.push_back(options.id);
  return arguments;
}

// runc would say it after everything has been made.
void check_terminal(const RestoreOptions& options, const oci::Config& config) {
  bool given = !options.console_socket.empty();
  if (config.terminal == given) return;
  if (given)
    throw Error("restore", options.id)
        .because("--console-socket is given, but its config.json asks for no terminal")
        .hint("leave it out");
  throw Error("restore", options.id)
      .because("it has a terminal, and nobody is there to take the other end")
      .hint("name a socket that receives it with --console-socket PATH (as runc's recvtty)");
}

// The first "Error (stasis/restore): ..." of our own end of the restore.
std::string first_error(const std::string& log) {
  if (!kernel::exists(log)) return {};
  std::string text = kernel::read_file(log);
  std::string_view rest = text;
  while (!rest.empty()) {
    std::string_view line = text::next(rest, '\n');
    if (size_t at = line.find(" Error ("); at != line.npos)
      if (size_t end = line.find("): ", at); end != line.npos)
        return std::string(line.substr(end + 3));
  }
  return {};
}

// Our own log says best what went wrong; it is kept for who wants to know more.
[[noreturn]] void fail(const RestoreOptions& options, const RuncResult& result,
                       const std::string& work) {
  std::string log = work + "/restore.log";
  std::string cause = first_error(log);
  if (cause.empty()) cause = result.complaint;
  if (cause.empty()) cause = fmt::format("runc restore ended with {}", result.exit_code);
  std::string kept = std::string(run_dir) + "/" + options.id + ".restore.log";
  Error error = Error("restore", options.id).because(cause);
  if (kernel::exists(log) && rename(log.c_str(), kept.c_str()) == 0)
    error.hint("the log is " + kept);
  throw error;
}

void report(const RestoreOptions& options, const std::vector<mountmap::MapFinding>& differences,
            double wall_ms, FILE* out) {
  oci::RuncState state = oci::find_container(options.id, options.runc_root);
  if (options.json) {
    nlohmann::ordered_json json = {{"id", options.id},
                                   {"image", options.image},
                                   {"bundle", options.bundle},
                                   {"pid", state.init_pid},
                                   {"wallMicroseconds", static_cast<int64_t>(wall_ms * 1000)}};
    json["differences"] = nlohmann::ordered_json::array();
    for (const mountmap::MapFinding& finding : differences)
      json["differences"].push_back(nlohmann::ordered_json(mountmap::to_json(finding)));
    fmt::print(out, "{}\n",
               json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else {
    fmt::print(out, "{}: running again as process {}, {:.1f} ms\n", options.id, state.init_pid,
               wall_ms);
  }
}

double now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

}  // namespace

int restore(const RestoreOptions& given, FILE* out) {
  double start = now_ms();
  oci::check_container_id(given.id);
  require_root("restore", given.id);
  RestoreOptions options = given;
  options.image = fs::absolute(given.image.empty() ? default_image_dir(given.id) : given.image)
                      .lexically_normal()
                      .string();
  Manifest manifest = read_manifest(options.image);
  ContainerLock lock(options.id);
  options = complete(std::move(options), manifest);
  image::Checkpoint image = image::load(kernel::open(options.image, O_RDONLY | O_DIRECTORY).get());
  std::string config = configure(options, image);
  oci::Config parsed = oci::parse_config(config, options.bundle);
  check_terminal(options, parsed);
  std::optional<MountedRoot> root;
  if (options.mount_root) root.emplace(image, parsed.root_path);
  auto differences = examine(options, image, parsed, manifest);
  std::optional<MappedBundle> mapped;
  if (!options.maps.empty()) {
    mapped.emplace(bundles_dir, options.id, config);
    options.bundle = mapped->path();
  }

  std::string work = std::string(run_dir) + "/.restore.XXXXXX";
  if (!mkdtemp(work.data())) {
    int code = errno;
    throw Error("create a directory in", run_dir).with_errno(code);
  }
  ScopeExit remove_work([&] {
    std::error_code ignored;
    fs::remove_all(work, ignored);
  });
  bool shared_stdout = becomes_containers(options.image, STDOUT_FILENO);
  bool shared_stderr = becomes_containers(options.image, STDERR_FILENO);
  RuncResult result =
      run_runc(options.runtime, runc_arguments(options, manifest, work), shared_stderr);
  if (result.exit_code != 0) fail(options, result, work);
  // Not into the midst of what the container has to say.
  if (shared_stdout) out = shared_stderr ? nullptr : stderr;
  if (mapped) mapped->keep();
  if (root) root->keep();
  if (out) report(options, differences, now_ms() - start, out);
  return 0;
}

}  // namespace stasis::cli
