// Images that lie: each field of a real checkpoint is set to what it should
// not be. load() must refuse by name or take it as valid, nothing else; and
// what must be refused is listed one by one.
#include <google/protobuf/descriptor.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>

#include "engine/image/checkpoint.h"
#include "engine/image/golden.h"

using namespace stasis;
using namespace stasis::image;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

// An image taken apart: its magics, its entries each with the bytes behind it.
struct Parts {
  struct Entry {
    std::unique_ptr<Message> message;
    std::string payload;
  };
  std::string magics;
  std::vector<Entry> entries;

  Parts(const std::string& stem, const std::string& bytes) {
    const Format* format = format_of(stem);
    Reader reader(stem, bytes, Limits{});
    magics = bytes.substr(0, bytes.size() - reader.remaining());
    for (bool first = true; reader.remaining() > 0; first = false) {
      auto prototype = first && format->head ? format->head : format->entry;
      Entry entry{std::unique_ptr<Message>(prototype()->New()), {}};
      reader.next(*entry.message);
      if (format->payload) entry.payload = reader.payload(format->payload(*entry.message));
      entries.push_back(std::move(entry));
    }
  }

  std::string bytes() const {
    std::string result = magics;
    for (const Entry& entry : entries) {
      std::string message = entry.message->SerializePartialAsString();
      auto size = static_cast<uint32_t>(message.size());
      result.append(reinterpret_cast<const char*>(&size), sizeof size);
      result += message + entry.payload;
    }
    return result;
  }
};

enum class Outcome { taken, refused };

// Anything but an Error about an image is a failure of the test.
Outcome try_load(const Images& images) {
  try {
    load(ImageDir::of(images));
    return Outcome::taken;
  } catch (const Error& error) {
    CHECK(error.operation() == "read image");
    CHECK_FALSE(error.cause().empty());
    CHECK_FALSE(error.remedy().empty());
    return Outcome::refused;
  }
}

using Action = std::function<void()>;

void set_number(Message& message, const FieldDescriptor* field, int index, uint64_t value) {
  const auto* reflection = message.GetReflection();
  bool repeated = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32: {
      auto narrow = static_cast<uint32_t>(value);
      return repeated ? reflection->SetRepeatedUInt32(&message, field, index, narrow)
                      : reflection->SetUInt32(&message, field, narrow);
    }
    case FieldDescriptor::CPPTYPE_UINT64:
      return repeated ? reflection->SetRepeatedUInt64(&message, field, index, value)
                      : reflection->SetUInt64(&message, field, value);
    case FieldDescriptor::CPPTYPE_INT32:
      return repeated
                 ? reflection->SetRepeatedInt32(&message, field, index, static_cast<int>(value))
                 : reflection->SetInt32(&message, field, static_cast<int>(value));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection->SetInt64(&message, field, static_cast<int64_t>(value));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->SetBool(&message, field, value & 1);
    default:
      return;
  }
}

void mutate_fields(Message& message, const Action& attempt);

void mutate_value(Message& message, const FieldDescriptor* field, int index,
                  const Action& attempt) {
  const auto* reflection = message.GetReflection();
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    mutate_fields(field->is_repeated() ? *reflection->MutableRepeatedMessage(&message, field, index)
                                       : *reflection->MutableMessage(&message, field),
                  attempt);
  } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    std::string big(5000, 'x');
    for (const std::string& text :
         {std::string(), std::string("/a\0b", 4), std::string("../.."), big}) {
      if (field->is_repeated())
        reflection->SetRepeatedString(&message, field, index, text);
      else
        reflection->SetString(&message, field, text);
      attempt();
    }
  } else {
    constexpr uint64_t values[] = {0,
                                   1,
                                   4095,
                                   0x7fffffff,
                                   0xffffffff,
                                   0x7ffffffffffff000,
                                   std::numeric_limits<uint64_t>::max()};
    for (uint64_t value : values) {
      set_number(message, field, index, value);
      attempt();
    }
  }
}

// Runs `attempt` for each mutation of each field; the message comes back as it was.
void mutate_fields(Message& message, const Action& attempt) {
  std::unique_ptr<Message> original(message.New());
  original->CopyFrom(message);
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    int size = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int index : {0, size - 1}) {
      mutate_value(message, field, index, attempt);
      message.CopyFrom(*original);
      if (size == 1) break;
    }
    reflection->ClearField(&message, field);
    attempt();
    message.CopyFrom(*original);
    if (!field->is_repeated()) continue;
    reflection->RemoveLast(&message, field);
    attempt();
    message.CopyFrom(*original);
  }
}

// One entry of an image changed: what load() says.
template <typename M>
std::string after(const std::string& stem, size_t entry, const std::function<void(M&)>& change) {
  Images images = golden("criu-4.2/demo");
  Parts parts(stem, images.at(stem));
  change(dynamic_cast<M&>(*parts.entries.at(entry).message));
  images[stem] = parts.bytes();
  try {
    load(ImageDir::of(images));
    return "taken";
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("whatever a field says, load() survives") {
  const Images images = golden("criu-4.2/demo");
  size_t taken = 0, refused = 0;
  for (const auto& [stem, bytes] : images) {
    if (!format_of(stem) || stem == "stats-dump") continue;
    INFO(stem);
    Parts parts(stem, bytes);
    Images mutated = images;
    auto attempt = [&] {
      mutated[stem] = parts.bytes();
      ++(try_load(mutated) == Outcome::taken ? taken : refused);
    };
    for (size_t i = 0; i < parts.entries.size(); ++i) {
      if (i >= 3 && i + 1 < parts.entries.size()) continue;
      mutate_fields(*parts.entries[i].message, attempt);
      Parts::Entry entry = std::move(parts.entries[i]);
      parts.entries.erase(parts.entries.begin() + static_cast<long>(i));
      attempt();
      parts.entries.insert(parts.entries.begin() + static_cast<long>(i), std::move(entry));
    }
    mutated.erase(stem);
    try_load(mutated);
  }
  CHECK(taken > 100);  // a register may hold anything
  CHECK(refused > 1000);
}

TEST_CASE("cut and flipped images are survived") {
  const Images images = golden("criu-4.2/demo");
  std::mt19937 random(1);
  for (const auto& [stem, bytes] : images) {
    if (!format_of(stem) || stem == "stats-dump") continue;
    INFO(stem);
    Images mutated = images;
    for (int i = 0; i < 40; ++i) {
      mutated[stem] = bytes.substr(0, random() % bytes.size());
      try_load(mutated);
      mutated[stem] = bytes;
      mutated[stem][random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
      try_load(mutated);
    }
  }
}

TEST_CASE("lies about processes are refused by name") {
  auto tree = [](size_t entry, const std::function<void(PstreeEntry&)>& change) {
    return after<PstreeEntry>("pstree", entry, change);
  };
  CHECK(tree(3, [](auto& e) { e.set_pid(0); }) == "cannot read image pstree.img: entry 3: pid 0");
  CHECK(tree(3, [](auto& e) { e.set_pid(6); }) ==
        "cannot read image pstree.img: entry 3: pid 6 again");
  CHECK(tree(1, [](auto& e) { e.set_ppid(7); }) ==
        "cannot read image pstree.img: entry 1: pid 6: parent 7 comes not before it");
  CHECK(tree(1, [](auto& e) { e.set_ppid(6); }) ==
        "cannot read image pstree.img: entry 1: pid 6: parent 6 comes not before it");
  CHECK(tree(0, [](auto& e) { e.set_ppid(5); }) ==
        "cannot read image pstree.img: entry 0: pid 1: parent 5 of the first process");
  CHECK(tree(1, [](auto& e) { e.set_threads(0, 1); }) ==
        "cannot read image pstree.img: entry 1: pid 6: thread 1 again");
  CHECK(tree(1, [](auto& e) { e.add_threads(77); }) == "cannot read image core-77.img: is missing");
  auto core = [](const std::function<void(CoreEntry&)>& change) {
    return after<CoreEntry>("core-1", 0, change);
  };
  CHECK(core([](auto& e) { e.set_mtype(CoreEntry::AARCH64); }) ==
        "cannot read image core-1.img: made on AARCH64, this is X86_64");
  CHECK(core([](auto& e) { e.mutable_thread_info()->mutable_fpregs()->add_xmm_space(1); }) ==
        "cannot read image core-1.img: fpregs.xmm_space: 65 elements instead of 64");
  CHECK(core([](auto& e) { e.mutable_tc()->set_task_state(7); }) ==
        "cannot read image core-1.img: task_state 7");
  CHECK(core([](auto& e) { e.mutable_tc()->set_task_state(task_dead); }) ==
        "cannot read image core-1.img: the first process is dead");
  CHECK(core([](auto& e) { e.mutable_thread_core()->set_cg_set(9); }) ==
        "cannot read image core-1.img: cg_set 9 is not in cgroup.img");
  CHECK(core([](auto& e) {
          e.mutable_thread_core()->set_seccomp_mode(filter);
          e.mutable_thread_core()->set_seccomp_filter(0);
        }) == "cannot read image core-1.img: seccomp_filter 0 is not in seccomp.img, which has 0");
  CHECK(core([](auto& e) {
          e.mutable_tc()->mutable_signals_s()->add_signals()->set_siginfo("short");
        }) == "cannot read image core-1.img: a siginfo of 5 bytes");
  CHECK(after<TaskKobjIdsEntry>("ids-6", 0, [](auto& e) { e.set_uts_ns_id(99); }) ==
        "cannot read image ids-6.img: process 6 is in a uts namespace of its own; only one of a "
        "container is supported");
}

TEST_CASE("lies about memory are refused by name") {
  auto vma = [](int index, const std::function<void(VmaEntry&)>& change) {
    return after<MmEntry>("mm-1", 0, [&](MmEntry& mm) { change(*mm.mutable_vmas(index)); });
  };
  CHECK(vma(1, [](auto& e) { e.set_start(e.start() - 4096); }) ==
        "cannot read image mm-1.img: vma 1: 0x400000-0x585000 begins below the end of the one "
        "before");
  CHECK(vma(1, [](auto& e) { e.set_start(e.start() + 1); }) ==
        "cannot read image mm-1.img: vma 1: 0x401001-0x585000 is no range of pages");
  CHECK(vma(0, [](auto& e) { e.set_end(e.start()); }) ==
        "cannot read image mm-1.img: vma 0: 0x400000-0x400000 is no range of pages");
  CHECK_THAT(vma(9, [](auto& e) { e.set_end(~uint64_t{4095}); }),
             Catch::EndsWith("fffff000 is outside user space"));
  CHECK(vma(0, [](auto& e) { e.set_shmid(4711); }) ==
        "cannot read image mm-1.img: vma 0: file 4711 is not in files.img");
  CHECK(vma(0, [](auto& e) { e.set_status(e.status() | vma_anon_private); }) ==
        "cannot read image mm-1.img: vma 0: status 0x241 has not one kind");
  CHECK(vma(0, [](auto& e) { e.set_status(1u << 31); }) ==
        "cannot read image mm-1.img: vma 0: status 0x80000000 is unknown");
  CHECK(vma(0, [](auto& e) { e.set_flags(1); }) ==
        "cannot read image mm-1.img: vma 0: flags 0x1 do not fit status 0x41");
  CHECK(after<MmEntry>("mm-1", 0, [](auto& e) { e.set_exe_file_id(6); }) ==
        "cannot read image mm-1.img: exe_file_id 6 is no file in files.img");
  auto pages = [](size_t entry, const std::function<void(PagemapEntry&)>& change) {
    return after<PagemapEntry>("pagemap-1", entry, change);
  };
  CHECK(pages(2, [](auto& e) { e.set_vaddr(4198400); }) ==
        "cannot read image pagemap-1.img: entry 2: vaddr 0x401000 is not above the one before");
  CHECK(pages(1, [](auto& e) { e.set_vaddr(0x10000); }) ==
        "cannot read image pagemap-1.img: entry 1: page 0x10000 is in no vma");
  CHECK(pages(1, [](auto& e) { e.set_nr_pages(0); }) ==
        "cannot read image pagemap-1.img: entry 1: 0 pages");
  CHECK_THAT(
      pages(1, [](auto& e) { e.set_nr_pages(100); }),
      Catch::Contains("pages-1.img") && Catch::Contains("; pagemap-1.img says it has 118 pages"));
  CHECK(pages(1, [](auto& e) { e.set_in_parent(true); }) ==
        "cannot read image pagemap-1.img: entry 1: its pages are in a parent checkpoint; "
        "incremental checkpoints are not supported");
  CHECK(pages(1, [](auto& e) { e.set_flags(page_lazy); }) ==
        "cannot read image pagemap-1.img: entry 1: its pages are on a page server (lazy-pages)");
}

TEST_CASE("lies about files are refused by name") {
  CHECK(after<FdinfoEntry>("fdinfo-2", 0, [](auto& e) { e.set_id(99); }) ==
        "cannot read image fdinfo-2.img: entry 0: fd 0: file 99 is not in files.img");
  CHECK(after<FdinfoEntry>("fdinfo-2", 0, [](auto& e) { e.set_type(PIPE); }) ==
        "cannot read image fdinfo-2.img: entry 0: fd 0: file 2 is a REG, not a PIPE");
  CHECK(after<FdinfoEntry>("fdinfo-2", 1, [](auto& e) { e.set_fd(0); }) ==
        "cannot read image fdinfo-2.img: entry 1: fd 0 again");
  auto file = [](const std::function<void(FileEntry&)>& change) {
    return after<FileEntry>("files", 0, change);
  };
  CHECK(file([](auto& e) { e.mutable_reg()->set_mnt_id(5); }) ==
        "cannot read image files.img: file 1: mnt_id 5 is not in mountpoints-*.img");
  CHECK(file([](auto& e) { e.mutable_reg()->set_name("/bin/../../etc"); }) ==
        "cannot read image files.img: file 1: name /bin/../../etc is no clean path");
  CHECK(file([](auto& e) { e.mutable_reg()->set_id(7); }) ==
        "cannot read image files.img: file 1: has id 7 inside");
  CHECK(file([](auto& e) { e.set_id(2); }) == "cannot read image files.img: file 2: that id again");
  CHECK(file([](auto& e) { e.clear_reg(); }) ==
        "cannot read image files.img: file 1: is a REG without details of one");
  CHECK(after<PipeDataEntry>("pipes-data", 0, [](auto& e) { e.set_bytes(1); }) ==
        "cannot read image pipes-data.img: entry 0: says 1 bytes follow, 0 are left");
}

TEST_CASE("lies about mounts are refused by name") {
  auto mount = [](size_t entry, const std::function<void(MntEntry&)>& change) {
    return after<MntEntry>("mountpoints-13", entry, change);
  };
  std::string where = "cannot read image mountpoints-13.img: entry 0: ";
  CHECK(mount(0, [](auto& e) { e.set_mountpoint("/sys/../etc"); }) ==
        where + "mountpoint /sys/../etc is no clean path");
  CHECK(mount(0, [](auto& e) { e.set_mountpoint("/etc"); }) ==
        where + "mountpoint /etc is not below its parent's, /sys");
  CHECK(mount(0, [](auto& e) { e.set_mountpoint("/system"); }) ==
        where + "mountpoint /system is not below its parent's, /sys");
  CHECK_THAT(mount(0, [](auto& e) { e.set_parent_mnt_id(e.mnt_id()); }),
             Catch::StartsWith(where) && Catch::EndsWith("is its own ancestor"));
  CHECK(mount(0, [](auto& e) { e.set_ext_key(""); }) == where + "an empty ext_key");
  CHECK(mount(0, [](auto& e) { e.set_parent_mnt_id(9999); }) ==
        where + "the root is mounted at /sys/firmware");
}

TEST_CASE("what is confined can't be talked out of it") {
  CHECK(after<CgroupEntry>("cgroup", 0, [](auto& e) {
          e.mutable_sets(0)->mutable_ctls(0)->set_path("/../../other");
        }) == "cannot read image cgroup.img: set 2: path /../../other");
  CHECK(after<CgroupEntry>("cgroup", 0, [](auto& e) {
          e.mutable_controllers(0)->mutable_dirs(0)->set_dir_name("../x");
        }) == "cannot read image cgroup.img: directory ../x");
  CHECK(after<CgroupEntry>("cgroup", 0, [](auto& e) {
          e.mutable_controllers(0)->mutable_dirs(0)->mutable_properties(0)->set_name(
              "../../release_agent");
        }).ends_with("property \"../../release_agent\""));
  CHECK(after<SeccompEntry>("seccomp", 0, [](auto& e) {
          e.add_seccomp_filters()->set_filter("1234567");
        }) == "cannot read image seccomp.img: filter 0 has 7 bytes");
  CHECK(after<InventoryEntry>("inventory", 0, [](auto& e) { e.set_img_version(3); }) ==
        "cannot read image inventory.img: img_version 3, only 2 can be read");
  CHECK(after<InventoryEntry>(
            "inventory", 0,
            [](auto& e) { e.mutable_plugins_entry()->add_plugins("amdgpu_plugin"); }) ==
        "cannot read image inventory.img: made with the CRIU plugin amdgpu_plugin, which stasis "
        "does not have");
}
