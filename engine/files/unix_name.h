// The names of unix sockets: which file a socket is bound to, and binding it
// again. The name is the text that bind() was given; where it led depends on the
// root and working directory of then.
#pragma once

#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "sockets.pb.h"

namespace stasis::engine::files {

class Dumper;
class Restorer;
struct OpenFile;

bool is_abstract(std::string_view name);
// As people write it: "@name" for an abstract one, a path without what is behind its end.
std::string shown_name(std::string_view name);

// O_PATH descriptor of the file that a socket is bound to, also where its name
// is gone; none where it isn't bound to one.
UniqueFd socket_file(int socket);

// Fills name, name_dir, mnt_id, file_perms and deleted.
void describe_name(Dumper& dumper, const OpenFile& file, const std::string& name,
                   image::UnixSkEntry& entry);

// Binds sockets of one restore.
class UnixNames {
 public:
  explicit UnixNames(Restorer& restorer) : restorer_(restorer) {}

  // Binds to the name in the container: a socket file of before makes way. The
  // file comes to be at `path`, where one is given.
  void bind(int socket, const image::UnixSkEntry& entry, const std::string& path = {});
  // The same in a directory of ours that nobody sees: for a file that has been
  // removed, and for those who only have the name of somebody else.
  void bind_aside(int socket, const image::UnixSkEntry& entry);
  // To a name that somebody else had: nobody finds it there.
  void bind_like(int socket, const std::string& name);

 private:
  int aside();

  Restorer& restorer_;
  UniqueFd aside_;
};

// Connects to a socket that we hold, by its file or its abstract name; or by what a
// name means from some root directory.
long connect_to(int socket, int target, std::string_view abstract_name);
long connect_from_root(int socket, int root, const std::string& name);

}  // namespace stasis::engine::files
