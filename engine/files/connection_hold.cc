#include "engine/files/connection_hold.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include <algorithm>

#include "engine/files/tcp_segment.h"

#ifndef NFT_TABLE_F_OWNER
#define NFT_TABLE_F_OWNER 0x2
#endif

namespace stasis::engine::files {

namespace {

using kernel::bytes_of;
using kernel::Messages;

constexpr size_t elements_at_once = 500;  // an attribute holds 64 KiB
constexpr uint32_t first_register = NFT_REG32_00;

// One transaction: all of it happens, or nothing.
class Transaction {
 public:
  explicit Transaction(std::string table) : table_(std::move(table)) {
    messages_.begin(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, head(NFPROTO_UNSPEC));
  }

  void begin(int type, uint16_t flags, uint16_t table_attribute) {
    messages_.begin(static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type),
                    static_cast<uint16_t>(NLM_F_REQUEST | flags), head(NFPROTO_INET));
    messages_.text(table_attribute, table_);
  }
  Messages& operator*() { return messages_; }
  Messages* operator->() { return &messages_; }

  void commit(kernel::Netlink& netlink, std::string_view operation) {
    messages_.acknowledge();
    messages_.begin(NFNL_MSG_BATCH_END, NLM_F_REQUEST, head(NFPROTO_UNSPEC));
    netlink.send(messages_, messages_.last() - 1, operation, "TCP connections");
  }

 private:
  static std::string head(uint8_t family) {
    nfgenmsg message{};
    message.nfgen_family = family;
    message.version = NFNETLINK_V0;
    message.res_id = htons(family == NFPROTO_UNSPEC ? NFNL_SUBSYS_NFTABLES : 0);
    return std::string(bytes_of(message));
  }

  Messages messages_;
  std::string table_;
};

// What the rules look at for one version of IP, in the order of a set's key.
struct Field {
  uint32_t base, offset, length;
};
struct Family {
  const char* set;
  uint8_t protocol;
  uint32_t key_length;
  Field fields[4];
};
constexpr Family families[] = {
    {"connections4",
     NFPROTO_IPV4,
     16,
     {{NFT_PAYLOAD_NETWORK_HEADER, 12, 4},
      {NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2},
      {NFT_PAYLOAD_NETWORK_HEADER, 16, 4},
      {NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}}},
    {"connections6",
     NFPROTO_IPV6,
     40,
     {{NFT_PAYLOAD_NETWORK_HEADER, 8, 16},
      {NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2},
      {NFT_PAYLOAD_NETWORK_HEADER, 24, 16},
      {NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}}},
};

void expression(Messages& m, const char* name, const std::function<void()>& data) {
  m.nest(NFTA_LIST_ELEM, [&] {
    m.text(NFTA_EXPR_NAME, name);
    m.nest(NFTA_EXPR_DATA, data);
  });
}

void expect_meta(Messages& m, uint32_t key, std::string_view value) {
  expression(m, "meta", [&] {
    m.big_endian(NFTA_META_DREG, first_register);
    m.big_endian(NFTA_META_KEY, key);
  });
  expression(m, "cmp", [&] {
    m.big_endian(NFTA_CMP_SREG, first_register);
    m.big_endian(NFTA_CMP_OP, NFT_CMP_EQ);
    m.nest(NFTA_CMP_DATA, [&] { m.attribute(NFTA_DATA_VALUE, value); });
  });
}

void verdict(Messages& m, uint32_t code) {
  expression(m, "immediate", [&] {
    m.big_endian(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    m.nest(NFTA_IMMEDIATE_DATA,
           [&] { m.nest(NFTA_DATA_VERDICT, [&] { m.big_endian(NFTA_VERDICT_CODE, code); }); });
  });
}

void add_rule(Transaction& t, const char* chain, const std::function<void()>& expressions) {
  t.begin(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, NFTA_RULE_TABLE);
  t->text(NFTA_RULE_CHAIN, chain);
  t->nest(NFTA_RULE_EXPRESSIONS, expressions);
}

void add_chain(Transaction& t, const char* name, uint32_t hook) {
  t.begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE, NFTA_CHAIN_TABLE);
  t->text(NFTA_CHAIN_NAME, name);
  t->nest(NFTA_CHAIN_HOOK, [&] {
    t->big_endian(NFTA_HOOK_HOOKNUM, hook);
    t->big_endian(NFTA_HOOK_PRIORITY, 0);
  });
  t->text(NFTA_CHAIN_TYPE, "filter");
  Messages& m = *t;
  add_rule(t, name, [&] {
    expect_meta(m, NFT_META_MARK, bytes_of(segment_mark));
    verdict(m, NF_ACCEPT);
  });
  const uint8_t tcp = IPPROTO_TCP;
  for (const Family& family : families)
    add_rule(t, name, [&] {
      expect_meta(m, NFT_META_NFPROTO, bytes_of(family.protocol));
      expect_meta(m, NFT_META_L4PROTO, bytes_of(tcp));
      uint32_t at = first_register;
      for (const Field& field : family.fields) {
        expression(m, "payload", [&] {
          m.big_endian(NFTA_PAYLOAD_DREG, at);
          m.big_endian(NFTA_PAYLOAD_BASE, field.base);
          m.big_endian(NFTA_PAYLOAD_OFFSET, field.offset);
          m.big_endian(NFTA_PAYLOAD_LEN, field.length);
        });
        at += (field.length + 3) / 4;
      }
      expression(m, "lookup", [&] {
        m.text(NFTA_LOOKUP_SET, family.set);
        m.big_endian(NFTA_LOOKUP_SREG, first_register);
      });
      verdict(m, NF_DROP);
    });
}

std::string key_part(const InetAddress& address) {
  uint32_t four = address.ipv4();
  std::string part(address.is_ipv4() ? bytes_of(four) : bytes_of(address.words));
  const uint16_t port[2] = {htons(address.port), 0};
  return part += bytes_of(port);
}

// Packets of both directions.
std::vector<std::string> keys_of(const std::vector<InetEnds>& connections, bool four) {
  std::vector<std::string> keys;
  for (const InetEnds& ends : connections) {
    if (ends.remote.is_ipv4() != four) continue;
    keys.push_back(key_part(ends.local) + key_part(ends.remote));
    keys.push_back(key_part(ends.remote) + key_part(ends.local));
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

void add_set(Transaction& t, const Family& family, uint32_t number,
             const std::vector<InetEnds>& connections) {
  t.begin(NFT_MSG_NEWSET, NLM_F_CREATE, NFTA_SET_TABLE);
  t->text(NFTA_SET_NAME, family.set);
  t->big_endian(NFTA_SET_ID, number);
  t->big_endian(NFTA_SET_KEY_TYPE, 0);
  t->big_endian(NFTA_SET_KEY_LEN, family.key_length);
  auto keys = keys_of(connections, family.protocol == NFPROTO_IPV4);
  for (size_t done = 0; done < keys.size(); done += elements_at_once) {
    t.begin(NFT_MSG_NEWSETELEM, NLM_F_CREATE, NFTA_SET_ELEM_LIST_TABLE);
    t->text(NFTA_SET_ELEM_LIST_SET, family.set);
    t->nest(NFTA_SET_ELEM_LIST_ELEMENTS, [&] {
      for (size_t i = done; i < std::min(keys.size(), done + elements_at_once); ++i)
        t->nest(NFTA_LIST_ELEM, [&] {
          t->nest(NFTA_SET_ELEM_KEY, [&] { t->attribute(NFTA_DATA_VALUE, keys[i]); });
        });
    });
  }
}

void make(kernel::Netlink& netlink, const std::string& table, uint32_t flags,
          const std::vector<InetEnds>& connections) {
  Transaction t(table);
  t.begin(NFT_MSG_NEWTABLE, NLM_F_CREATE, NFTA_TABLE_NAME);
  t->big_endian(NFTA_TABLE_FLAGS, flags);
  uint32_t number = 0;
  for (const Family& family : families) add_set(t, family, ++number, connections);
  add_chain(t, "input", NF_INET_LOCAL_IN);
  add_chain(t, "output", NF_INET_LOCAL_OUT);
  t.commit(netlink, "hold");
}

void remove(kernel::Netlink& netlink, const std::string& table) {
  Transaction t(table);
  t.begin(NFT_MSG_DELTABLE, 0, NFTA_TABLE_NAME);
  t.commit(netlink, "let go");
}

std::string id_of(const std::vector<InetEnds>& connections) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (bool four : {true, false})
    for (const std::string& key : keys_of(connections, four))
      for (char byte : key) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

std::string own(const std::string& id) { return "stasis-" + id; }
std::string lasting(const std::string& id) { return "CRIU-" + id; }

}  // namespace

ConnectionHold::ConnectionHold(std::vector<InetEnds> connections)
    : netlink_(NETLINK_NETFILTER), connections_(std::move(connections)), id_(id_of(connections_)) {
  make(netlink_, own(id_), NFT_TABLE_F_OWNER, connections_);
}

void ConnectionHold::stay() { make(netlink_, lasting(id_), 0, connections_); }

void ConnectionHold::lift(const std::string& id) {
  remove(netlink_, own(id_));
  if (id.empty()) return;
  try {
    remove(netlink_, lasting(id));
  } catch (const Error& error) {
    if (error.code() != ENOENT) throw;  // none stayed
  }
}

}  // namespace stasis::engine::files
