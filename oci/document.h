// A JSON document whose errors name the file and the JSON path:
// "config.json: /mounts/3/source: expected a string". Unknown fields are no
// error: runtimes and specifications grow.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace stasis::oci {

// One value inside a document, and where it stands.
class Node {
 public:
  Node(const nlohmann::json& value, const std::string& file, std::string path)
      : value_(&value), file_(&file), path_(std::move(path)) {}

  // Members: absent ones, and those that are null, are nothing.
  std::optional<Node> find(std::string_view name) const;
  Node at(std::string_view name) const;  // must be there

  // Of an absent member: the fallback. Of one of another type: an error.
  std::string string(std::string_view name, std::string fallback = {}) const;
  bool boolean(std::string_view name, bool fallback = false) const;
  uint64_t number(std::string_view name, uint64_t fallback = 0) const;
  std::vector<std::string> strings(std::string_view name) const;

  std::string as_string() const;
  uint64_t as_number() const;
  void each(const std::function<void(Node)>& visit) const;  // of an array
  void each_member(const std::function<void(const std::string&, Node)>& visit) const;

  void expect_object() const;
  [[noreturn]] void fail(std::string_view what) const;

 private:
  const nlohmann::json* value_;
  const std::string* file_;
  std::string path_;
};

class Document {
 public:
  // `file` names the text in errors.
  Document(std::string_view text, std::string file);
  Node root() const { return {value_, file_, ""}; }

 private:
  std::string file_;
  nlohmann::json value_;
};

}  // namespace stasis::oci
