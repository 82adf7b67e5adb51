#include "oci/document.h"

#include <utility>

namespace stasis::oci {

namespace {

// As a JSON pointer writes a member name.
std::string pointer_step(std::string_view name) {
  std::string step = "/";
  for (char c : name) {
    if (c == '~')
      step += "~0";
    else if (c == '/')
      step += "~1";
    else
      step += c;
  }
  return step;
}

}  // namespace

Document::Document(std::string_view text, std::string file) : file_(std::move(file)) {
  try {
    value_ = nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    throw Error("read", file_)
        .because("not valid JSON (near byte " + std::to_string(error.byte) + ")");
  } catch (const nlohmann::json::out_of_range&) {
    throw Error("read", file_).because("it holds a number that is too large");
  }
}

void Node::fail(std::string_view what) const {
  throw Error("use", *file_ + ": " + (path_.empty() ? "/" : path_) + ": " + std::string(what));
}

void Node::expect_object() const {
  if (!value_->is_object()) fail("expected an object");
}

std::optional<Node> Node::find(std::string_view name) const {
  expect_object();
  auto member = value_->find(name);
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return Node(*member, *file_, path_ + pointer_step(name));
}

Node Node::at(std::string_view name) const {
  auto member = find(name);
  if (!member) fail("\"" + std::string(name) + "\" is missing");
  return *member;
}

std::string Node::as_string() const {
  if (!value_->is_string()) fail("expected a string");
  auto text = value_->get<std::string>();
  // These go into system calls, where a NUL would silently cut them.
  if (text.find('\0') != std::string::npos) fail("contains a NUL character");
  return text;
}

uint64_t Node::as_number() const {
  if (value_->is_number_unsigned()) return value_->get<uint64_t>();
  fail("expected a non-negative integer");
}

std::string Node::string(std::string_view name, std::string fallback) const {
  auto member = find(name);
  return member ? member->as_string() : std::move(fallback);
}

bool Node::boolean(std::string_view name, bool fallback) const {
  auto member = find(name);
  if (!member) return fallback;
  if (!member->value_->is_boolean()) member->fail("expected true or false");
  return member->value_->get<bool>();
}

uint64_t Node::number(std::string_view name, uint64_t fallback) const {
  auto member = find(name);
  return member ? member->as_number() : fallback;
}

std::vector<std::string> Node::strings(std::string_view name) const {
  std::vector<std::string> all;
  if (auto member = find(name))
    member->each([&](const Node& item) { all.push_back(item.as_string()); });
  return all;
}

void Node::each(const std::function<void(Node)>& visit) const {
  if (!value_->is_array()) fail("expected an array");
  size_t index = 0;
  for (const auto& item : *value_) visit(Node(item, *file_, path_ + "/" + std::to_string(index++)));
}

void Node::each_member(const std::function<void(const std::string&, Node)>& visit) const {
  expect_object();
  for (const auto& [name, item] : value_->items())
    visit(name, Node(item, *file_, path_ + pointer_step(name)));
}

}  // namespace stasis::oci
