// Open files of /proc/PID/ns, of the namespaces that the container's first
// process is in.
#include <fmt/core.h>

#include <algorithm>

#include "base/text.h"
#include "engine/files/dumper.h"
#include "engine/files/restorer.h"
#include "engine/image/checkpoint.h"
#include "engine/namespaces/ns_ids.h"
#include "kernel/fs.h"

namespace stasis::engine::files {

namespace {

using namespaces::Kind;

// The kind and inode of "net:[4026531840]".
struct Name {
  const Kind* kind;
  uint64_t inode;
};
std::optional<Name> name_of(std::string_view link) {
  std::string_view kind = text::next(link, ':');
  if (!link.starts_with('[') || !link.ends_with(']')) return std::nullopt;
  auto inode = text::to_int<uint64_t>(link.substr(1, link.size() - 2));
  for (const Kind& known : namespaces::kinds)
    if (known.name == kind && inode) return Name{&known, *inode};
  return std::nullopt;
}

bool claims(const Probe& probe) { return name_of(probe.link).has_value(); }

std::optional<Objection> objection(const Probe& probe, const Surroundings& around) {
  auto name = name_of(probe.link);
  if (!name || namespaces::NsIds(around.plan().root).inode(name->kind->flag) == name->inode)
    return std::nullopt;
  return Objection{fmt::format("holds a {} namespace open as descriptor {} that is not the one of "
                               "the container's first process",
                               name->kind->words, probe.number),
                   "close it before the checkpoint"};
}

void dump(Dumper& dumper, const OpenFile& file, image::FileEntry& entry) {
  auto name = name_of(file.probe.link);
  if (!name) throw Error("dump", file.probe.described()).because("it is no namespace any more");
  const Kind& kind = *name->kind;
  image::NsFileEntry& ns = *entry.mutable_nsf();
  ns.set_id(file.id);
  ns.set_ns_id(namespaces::NsIds(dumper.plan().root).id(kind.flag));
  ns.set_ns_cflag(static_cast<uint32_t>(kind.flag));
  ns.set_flags(file.probe.flags());
}

uint32_t id_of(const image::TaskKobjIdsEntry& ids, std::string_view kind) {
  std::string name = fmt::format("{}_ns_id", kind);
  const auto* field = ids.GetDescriptor()->FindFieldByName(name);
  return field ? ids.GetReflection()->GetUInt32(ids, field) : 0;
}

UniqueFd make(Restorer& restorer, const image::FileEntry& entry) {
  const image::NsFileEntry& ns = entry.nsf();
  const auto* kind = std::find_if(namespaces::kinds.begin(), namespaces::kinds.end(),
                                  [&](const Kind& k) { return k.flag == ns.ns_cflag(); });
  const image::TaskImage& root = restorer.image().root();
  if (kind == namespaces::kinds.end() || id_of(root.ids, kind->name) != ns.ns_id())
    throw Error("restore", fmt::format("file {}", entry.id()))
        .because(fmt::format("it is namespace {} of kind {:#x}, which the first process isn't in",
                             ns.ns_id(), ns.ns_cflag()));
  auto pid = static_cast<pid_t>(root.tree.pid());
  return restorer.later().open([name = kind->name, pid](const Pids& pids) {
    return kernel::open(fmt::format("/proc/{}/ns/{}", pids.at(pid), name), O_RDONLY);
  });
}

}  // namespace

const FileKind nsfile_kind = {"a namespace", image::NS, claims, objection, dump, make};

}  // namespace stasis::engine::files
