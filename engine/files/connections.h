// The TCP connections of a container as a whole: written down in one go when
// all else is, and let go together when all of it is back.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "fdinfo.pb.h"

namespace stasis::image {
class ImageWriter;
struct Checkpoint;
}  // namespace stasis::image

namespace stasis::engine {
struct DumpPlan;
struct RestorePlan;
namespace files {

class ConnectionHold;
class Repair;
class RepairGuard;
class Restorer;
struct OpenFile;

// A socket that has, or had, another end.
bool is_connection(const image::InetSkEntry& entry);

class DumpedConnections {
 public:
  DumpedConnections();
  ~DumpedConnections();

  // Fills in what the entries of `files` still lack, and writes tcp-stream-*.
  // Where the container goes on afterwards nothing is held: a moment's state
  // can be read without that.
  void store(const DumpPlan& plan, const std::vector<std::unique_ptr<OpenFile>>& files,
             image::ImageWriter& writer);
  // From here on the sockets may be closed, and nobody is told.
  void silence();
  // What the image must say of how they are held; empty: they aren't.
  std::string held_as() const;
  // Nor afterwards, by the network namespace if it lives on.
  void stay_held();

 private:
  struct One;
  std::unique_ptr<ConnectionHold> hold_;
  std::unique_ptr<RepairGuard> guard_;  // gone before the sockets are used again
  std::vector<One> all_;
};

class RestoredConnections {
 public:
  RestoredConnections();
  ~RestoredConnections();

  // Keeps answers to their packets back until release(); before the container
  // has a network, and where there are none nothing is done.
  void hold(const Restorer& restorer);
  // Sockets that listen must have a port before connections of it.
  void make_others_first(Restorer& restorer);
  // One that is in repair mode.
  void add(UniqueFd fd, Repair repair);
  // All go on; `held_as` is what their image says.
  void release(const std::string& held_as);

 private:
  struct One;
  std::unique_ptr<ConnectionHold> hold_;
  std::vector<One> all_;
  bool others_made_ = false;
};

// Whether they come back as ones that have ended.
bool closes_connections(const image::Checkpoint& checkpoint, const RestorePlan& plan);

// Connections that an image holds, but a restore isn't to bring back: throws
// before anything is made.
void check_connections(const image::Checkpoint& checkpoint, const RestorePlan& plan);

}  // namespace files
}  // namespace stasis::engine
