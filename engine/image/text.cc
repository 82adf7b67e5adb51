#include <fmt/format.h>
#include <google/protobuf/text_format.h>

#include <memory>

#include "engine/image/image.h"
#include "fs.pb.h"
#include "ns.pb.h"

namespace stasis::image {
namespace {

using google::protobuf::Message;

std::string printed(const Message& entry) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseShortRepeatedPrimitives(true);
  printer.SetInitialIndentLevel(1);
  std::string text;
  printer.PrintToString(entry, &text);
  return text;
}

void add_entry(std::string& text, const Message& entry) {
  text += entry.GetDescriptor()->name() + " {\n" + printed(entry) + "}\n";
}

void add_payload(std::string& text, std::string_view bytes) {
  if (!bytes.empty()) text += fmt::format("# {} bytes\n", bytes.size());
}

void add_messages(std::string& text, Reader& reader, const IpcMsgEntry& queue) {
  IpcMsg message;
  for (uint32_t i = 0; i < queue.qnum() && reader.next(message); ++i) {
    add_entry(text, message);
    add_payload(text, reader.payload((message.msize() + uint64_t{7}) / 8 * 8));
  }
}

void add_ghost_content(std::string& text, Reader& reader, const GhostFileEntry& ghost) {
  GhostChunkEntry chunk;
  while (ghost.chunks() && reader.next(chunk)) {
    add_entry(text, chunk);
    add_payload(text, reader.payload(chunk.len()));
  }
  add_payload(text, reader.payload(reader.remaining()));
}

void add_all(std::string& text, Reader& reader, const Format& format) {
  std::unique_ptr<Message> head(format.head ? format.head()->New() : nullptr);
  if (head && reader.next(*head)) add_entry(text, *head);
  std::unique_ptr<Message> entry(format.entry()->New());
  while (reader.next(*entry)) {
    add_entry(text, *entry);
    if (format.payload) add_payload(text, reader.payload(format.payload(*entry)));
    if (const auto* queue = dynamic_cast<const IpcMsgEntry*>(entry.get()))
      add_messages(text, reader, *queue);
    if (const auto* ghost = dynamic_cast<const GhostFileEntry*>(entry.get()))
      add_ghost_content(text, reader, *ghost);
  }
}

}  // namespace

std::string to_text(std::string_view stem, std::string_view bytes) {
  const Format* format = format_of(stem);
  if (!format)
    return fmt::format("# {} bytes, {}\n", bytes.size(), is_raw(stem) ? "raw" : "of no known kind");
  std::string text;
  try {
    Reader reader(std::string(stem), std::string(bytes), Limits{});
    add_all(text, reader, *format);
  } catch (const Error& error) {
    text += fmt::format("# {}\n", error.what());
  }
  return text;
}

}  // namespace stasis::image
