// The content of a file system as tar, compressed with gzip: pax headers for
// times, extended attributes and holes, all of which GNU tar (which CRIU runs)
// reads or passes over. Sockets, for which tar has no word, stand in an extended
// attribute of the root, which comes once more behind them.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/unique_fd.h"
#include "engine/namespaces/userns.h"

namespace stasis::engine::mounts {

// The image that holds the content of a device's file system.
std::string archive_of(uint32_t device);

// The first archive takes the library as long as ten others do, as it loads the
// tables of character sets: better before tasks are frozen.
void prepare_packing();

// Records "MODE UID GID SECONDS NANOSECONDS PATH", each with a zero byte behind it;
// the mode octal.
inline constexpr const char* sockets_attribute = "stasis.sockets";

// Packs everything beneath the directory `root`, which no other mount covers,
// into `out`. Owners are written as `ids` show them inside; what they don't map belongs to
// nobody there. `name` is for messages.
void pack(int root, int out, const userns::IdMap& ids, const std::string& name);

// Packs the directory `root` alone, for one that comes back empty.
void pack_empty(int root, int out, const userns::IdMap& ids, const std::string& name);

// Packs parts of a file system, each a directory or file (O_PATH is enough) by
// its path in it ("a/b"); none lies within another. The directories that lead
// there are root's.
void pack_parts(const std::map<std::string, UniqueFd>& parts, int out, const userns::IdMap& ids,
                const std::string& name);

// Unpacks what `in` holds into the empty directory `root`, never outside of it.
void unpack(int in, int root, const std::string& name);

// Unpacks it over what is in `root`, as an image's layer: what has the same name is replaced,
// directories stay, missing ones are made, and whiteouts take away.
void unpack_over(int in, int root, const std::string& name);

// Removes the file or the directory with all that is in it that the relative path names, if it is
// there: never outside of `root`, and through no symbolic link.
void remove_beneath(int root, const std::string& path, const std::string& name);

}  // namespace stasis::engine::mounts
