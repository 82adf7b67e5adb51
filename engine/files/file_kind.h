// The kinds of open file that can be written down and made again: one row each
// in `file_kinds`, whose functions stand together in one source file.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "fdinfo.pb.h"

namespace stasis::engine {
struct DumpPlan;
namespace files {

class Dumper;
class Restorer;
struct OpenFile;
struct Probe;

// Why a file of a claimed kind can't be dumped, and what to do about it.
struct Objection {
  std::string what;  // "locked by ..."; completes "holds NAME open as descriptor 6, "
  std::string remedy;
};

struct FileKind {
  const char* name;  // with its article: "a pipe"
  image::FdTypes type;
  bool (*claims)(const Probe&);
  // Asked before the freeze and again at the dump. May be null.
  std::optional<Objection> (*objection)(const Probe&, const DumpPlan&);
  void (*dump)(Dumper&, const OpenFile&, image::FileEntry&);
  UniqueFd (*make)(Restorer&, const image::FileEntry&);
};

std::span<const FileKind> file_kinds();
const FileKind* kind_of(const Probe&);         // null: none claims it
const FileKind* kind_of(image::FdTypes type);  // null: can't be made again
Objection unknown_kind(const Probe&);          // what it is instead, by name

// The rows.
extern const FileKind regular_kind, pipe_kind, fifo_kind, eventfd_kind;

}  // namespace files
}  // namespace stasis::engine
