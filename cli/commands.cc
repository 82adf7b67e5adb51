#include "cli/commands.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "cli/check.h"
#include "cli/checkpoint.h"
#include "cli/criu.h"
#include "cli/inspect.h"
#include "cli/plan.h"
#include "cli/restore.h"
#include "cli/snapshot.h"
#include "hook/hook.h"
#include "hook/install.h"
#include "kernel/fs.h"

namespace stasis::cli {
namespace {

class StderrLog : public Log {
 public:
  StderrLog() { level_ = LogLevel::warning; }
  void write(LogLevel level, std::string_view line) override {
    if (level <= level_) fmt::print(stderr, "stasis: {}\n", line);
  }
};

int change_hooks(bool install, const std::string& directory) {
  auto paths = install ? hook::install(directory, kernel::read_link("/proc/self/exe"))
                       : hook::uninstall(directory);
  for (const std::string& path : paths) fmt::print("{} {}\n", install ? "wrote" : "removed", path);
  return 0;
}

int run_hook(std::string_view phase) {
  StderrLog log;
  hook::run(phase, STDIN_FILENO, log, take_snapshot);
  return 0;
}

// All commands with their options; the one that was given leaves its exit code.
class CommandLine {
 public:
  CommandLine() {
    app_.set_version_flag("--version", "stasis " STASIS_VERSION);
    app_.require_subcommand(1);
    app_.footer(
        "Examples:\n"
        "  stasis plan web            what would happen to every mount of container web\n"
        "  stasis checkpoint web      write it down and stop it\n"
        "  stasis restore web         go on where it stopped\n"
        "  stasis checkpoint web --leave-running --image /backup/web\n"
        "  stasis inspect /backup/web what it holds\n"
        "  runc --criu $(which stasis) checkpoint web      in place of CRIU\n"
        "Each command has its own --help.");
    add_plan();
    add_checkpoint();
    add_restore();
    add_inspect();
    add_check();
    add_doors();
  }

  int run(int argc, char** argv) {
    if (argc < 2) {
      fmt::print(stderr, "{}", app_.help());
      return 2;
    }
    if (argv[1][0] != '-' && !knows(argv[1]))
      return usage(fmt::format("there is no command \"{}\"", argv[1]));
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      if (error.get_exit_code() != 0) return usage(error.what());
      app_.exit(error);  // help or version
    }
    return code_;
  }

 private:
  void add_plan() {
    CLI::App* command = app_.add_subcommand(
        "plan", "Show what a checkpoint would do with every mount, and what stands in its way");
    ContainerQuery& which = plan_.container;
    CLI::Option* id = command->add_option("ID", which.id, "A container of runc");
    CLI::Option* pid = command->add_option("--pid", which.pid, "Or any process")->excludes(id);
    command->add_option("--bundle", which.bundle, "Or an OCI bundle, running or not")
        ->type_name("DIR")
        ->excludes(id, pid);
    add_root(*command, plan_.container.runc_root);
    command
        ->add_option("--policy", which.policy_file,
                     "Try this policy file in place of /etc/stasis/policy.yaml")
        ->type_name("FILE");
    which.policy_on_trial = true;
    command->add_flag("--json", plan_.json, "For programs");
    command->footer(
        "Examples:\n"
        "  stasis plan web                       a running container\n"
        "  stasis plan --pid 4711 --json\n"
        "  stasis plan --bundle /srv/bundle      before it is created\n"
        "The exit code is 0 when it can be checkpointed, 1 when something stands in the way.");
    command->callback([this] {
      if (plan_.container.id.empty() && plan_.container.pid <= 0 && plan_.container.bundle.empty())
        throw CLI::RequiredError("ID, --pid or --bundle");
      plan_.color = isatty(STDOUT_FILENO) != 0;
      code_ = plan(plan_, stdout);
    });
  }

  void add_checkpoint() {
    CLI::App* command =
        app_.add_subcommand("checkpoint", "Write a running container down and stop it");
    CheckpointOptions& o = checkpoint_;
    command->add_option("ID", o.id, "The container, as runc knows it")->required();
    command
        ->add_option("--image", o.image,
                     "Directory for the checkpoint (/var/lib/stasis/checkpoints/ID)")
        ->type_name("DIR");
    CLI::Option* running =
        command->add_flag("--leave-running", o.leave_running, "Let the container go on afterwards");
    command
        ->add_option_function<std::string>(
            "--snapshot",
            [&o](const std::string& how) {
              o.snapshot = how == "fork"    ? engine::Snapshot::fork
                           : how == "plain" ? engine::Snapshot::plain
                                            : engine::Snapshot::automatic;
            },
            "How memory is written then: fork, from copies of the processes while they\n"
            "go on; plain, while they stand still; auto, by size and memory to spare")
        ->needs(running)
        ->option_text("auto|fork|plain")
        ->check(CLI::IsMember({"auto", "fork", "plain"}));
    command->add_flag("--tcp-established", o.tcp_established, "Take open TCP connections along");
    command->add_flag("--tcp-close", o.tcp_close,
                      "Leave TCP connections; restored, they have been closed");
    command->add_flag("--skip-in-flight", o.skip_in_flight,
                      "Leave connections that haven't been accepted yet");
    command->add_flag("--file-locks", o.file_locks,
                      "As CRIU has it; file locks are taken along anyway");
    command->add_flag("--ext-unix-sk", o.ext_unix_sk, "Allow unix sockets that lead outside");
    command->add_flag("--shell-job", o.shell_job, "Allow a terminal that isn't the container's");
    add_root(*command, o.runc_root);
    command
        ->add_option("--policy", o.policy_file,
                     "Policy file for this checkpoint (/etc/stasis/policy.yaml)")
        ->type_name("FILE");
    add_runtime(*command, o.runtime);
    command->add_flag("--json", o.json, "For programs");
    command->footer(
        "Examples:\n"
        "  stasis checkpoint web\n"
        "  stasis checkpoint web --leave-running --image /backup/web-monday\n"
        "An older checkpoint in the same place is replaced when the new one is whole. When\n"
        "anything fails the container goes on as before.");
    command->callback([this] { code_ = checkpoint(checkpoint_, stdout); });
  }

  void add_restore() {
    CLI::App* command = app_.add_subcommand("restore", "Bring a container back from a checkpoint");
    RestoreOptions& o = restore_;
    command->add_option("ID", o.id, "The name it will have in runc")->required();
    command
        ->add_option("--image", o.image,
                     "Directory of the checkpoint (/var/lib/stasis/checkpoints/ID)")
        ->type_name("DIR");
    command->add_option("--bundle", o.bundle, "Its OCI bundle (the one it had)")->type_name("DIR");
    command->add_option("--root", o.runc_root, "runc's state directory (the one it had)")
        ->type_name("DIR");
    command
        ->add_option("--map", o.maps,
                     "Bind SOURCE where config.json binds another one; may be repeated")
        ->type_name("DEST=SOURCE")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    command
        ->add_option("--console-socket", o.console_socket,
                     "Unix socket that receives the other end of the container's terminal")
        ->type_name("PATH");
    command->add_flag("--mount-root", o.mount_root,
                      "Mount the root (aufs, overlay) from the layers that the checkpoint names");
    add_runtime(*command, o.runtime);
    command->add_flag("--json", o.json, "For programs");
    command->footer(
        "Examples:\n"
        "  stasis restore web\n"
        "  stasis restore web2 --image /backup/web-monday --bundle /srv/web\n"
        "  stasis restore web --map /data=/mnt/copy-of-data\n"
        "The sources of bound mounts are those of the bundle's config.json. What differs from the\n"
        "checkpoint is shown before anything is made. With --map the container's bundle becomes a\n"
        "changed copy of config.json in /var/lib/stasis/bundles/ID.\n"
        "The checkpoint stays where it is and can be restored again.");
    command->callback([this] { code_ = restore(restore_, stdout); });
  }

  void add_inspect() {
    CLI::App* command = app_.add_subcommand(
        "inspect", "Show what a checkpoint holds: mounts, tasks, memory, files, namespaces");
    InspectOptions& o = inspect_;
    command->add_option("IMAGE", o.image, "A directory of images, CRIU's too, or a container's ID")
        ->required();
    command->add_option("--diff", o.diff, "Hold its mounts against config.json of this bundle")
        ->type_name("BUNDLE");
    command->add_flag("--json", o.json, "For programs");
    command->footer(
        "Examples:\n"
        "  stasis inspect web\n"
        "  stasis inspect /backup/web-monday --json\n"
        "  stasis inspect /backup/web-monday --diff /srv/web   would it fit there?\n"
        "With --diff the exit code is 1 when something prevents a restore from that bundle.");
    command->callback([this] {
      inspect_.color = isatty(STDOUT_FILENO) != 0;
      code_ = inspect(inspect_, stdout);
    });
  }

  void add_check() {
    CLI::App* command = app_.add_subcommand(
        "check", "Show what this kernel offers, what is missing and what that costs");
    command->add_flag("--json", json_, "For programs");
    command->footer("The exit code is 1 when something required is missing.");
    command->callback([this] { code_ = check(json_, stdout); });
  }

  // These are taken before all else, for programs; here they are explained.
  void add_doors() {
    CLI::App* hook = app_.add_subcommand("hook", "Carry out a phase of an OCI hook");
    hook->add_option("PHASE", phase_,
                     "createRuntime, prestart, createContainer, poststart or poststop; install or "
                     "uninstall")
        ->required();
    hook->add_option("--dir", hooks_dir_, "Directory of hooks.d files, for install and uninstall")
        ->capture_default_str()
        ->type_name("DIR");
    hook->footer(
        "The container's state is read from stdin, as an OCI runtime passes it.\n"
        "  stasis hook install     podman and CRI-O call the hook for containers with the\n"
        "                          annotation dev.stasis.restore: CHECKPOINT, which start from\n"
        "                          that checkpoint");
    hook->callback([this] {
      bool install = phase_ == "install";
      code_ =
          install || phase_ == "uninstall" ? change_hooks(install, hooks_dir_) : run_hook(phase_);
    });
    CLI::App* work = app_.add_subcommand("swrk", "Serve CRIU's RPC on an inherited socket");
    work->add_option("FD", fd_, "Number of the descriptor")->required();
    work->footer("Called by runc and others in place of `criu swrk FD`.");
    work->callback([this] { code_ = swrk(fd_.c_str()); });
    app_.add_subcommand("criu", "Be CRIU: stasis criu dump | restore | check, with its options");
  }

  bool knows(std::string_view command) {
    for (const CLI::App* known : app_.get_subcommands([](CLI::App*) { return true; }))
      if (known->get_name() == command) return true;
    return false;
  }
  static int usage(const std::string& what) {
    fmt::print(stderr, "stasis: {}; see stasis --help\n", what);
    return 2;
  }
  static void add_root(CLI::App& command, std::string& root) {
    command.add_option("--root", root, "runc's state directory")
        ->capture_default_str()
        ->type_name("DIR");
  }
  static void add_runtime(CLI::App& command, std::string& runtime) {
    command.add_option("--runtime", runtime, "Path of runc")
        ->capture_default_str()
        ->type_name("PATH");
  }

  CLI::App app_{"Puts running OCI containers into stasis and brings them back.", "stasis"};
  PlanOptions plan_;
  CheckpointOptions checkpoint_;
  RestoreOptions restore_;
  InspectOptions inspect_;
  bool json_ = false;
  std::string phase_, fd_, hooks_dir_ = hook::default_hooks_dir;
  int code_ = 0;
};

bool is_installation(std::string_view word) { return word == "install" || word == "uninstall"; }

int dispatch(int argc, char** argv) {
  std::string_view name = argv[0] ? argv[0] : "";
  if (size_t slash = name.rfind('/'); slash != name.npos) name.remove_prefix(slash + 1);
  std::string_view command = argc > 1 ? argv[1] : "";
  if (name == "criu") return criu(argc, argv);
  if (command == "criu") return criu(argc - 1, argv + 1);
  // Runtimes wait for these two: straight to work.
  if (command == "hook" && argc == 3 && argv[2][0] != '-' && !is_installation(argv[2]))
    return run_hook(argv[2]);
  if (command == "swrk" && argc == 3 && argv[2][0] != '-') return swrk(argv[2]);
  if (command == "--version" && argc == 2) {
    fmt::print("stasis " STASIS_VERSION "\n");
    return 0;
  }
  return CommandLine().run(argc, argv);
}

}  // namespace

int run(int argc, char** argv) {
  try {
    return dispatch(argc, argv);
  } catch (const Error& error) {
    fmt::print(stderr, "stasis: {}{}{}\n", error.what(), error.remedy().empty() ? "" : "; ",
               error.remedy());
  } catch (const std::exception& error) {
    fmt::print(stderr, "stasis: {}\n", error.what());
  }
  return 1;
}

}  // namespace stasis::cli
