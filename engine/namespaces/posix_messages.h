// The messages in a POSIX queue. Nobody can read one without taking it out, so a process of its
// own takes all and puts them back in their order, whatever happens to the engine meanwhile. The
// tasks stand still, and none is to be told of a message.
#pragma once

#include <mqueue.h>

#include <string>

#include "stasis.pb.h"

namespace stasis::engine::sysv {

using PosixMessages = google::protobuf::RepeatedPtrField<image::PosixMessageEntry>;

// `queue`: open for reading and writing, and not to wait. `name` is for errors.
PosixMessages copy_messages(int queue, const mq_attr& attributes, const std::string& name);

// Into a queue that is empty, in their order.
void send_messages(int queue, const PosixMessages& messages, const std::string& name);

}  // namespace stasis::engine::sysv
