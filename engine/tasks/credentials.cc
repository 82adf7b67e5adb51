#include "engine/tasks/credentials.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <vector>

namespace stasis::engine {

namespace {

template <typename Field>
void store_set(uint64_t set, Field* field) {
  field->Add(static_cast<uint32_t>(set));
  field->Add(static_cast<uint32_t>(set >> 32));
}

template <typename Field>
uint64_t load_set(const Field& field) {
  uint64_t set = 0;
  if (field.size() > 0) set |= field.Get(0);
  if (field.size() > 1) set |= uint64_t{field.Get(1)} << 32;
  return set;
}

void set_capabilities(const image::CredsEntry& creds, SyscallBatch& batch) {
  uint64_t inheritable = load_set(creds.cap_inh()), permitted = load_set(creds.cap_prm()),
           effective = load_set(creds.cap_eff());
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2];
  for (int i = 0; i < 2; ++i)
    sets[i] = {static_cast<uint32_t>(effective >> (32 * i)),
               static_cast<uint32_t>(permitted >> (32 * i)),
               static_cast<uint32_t>(inheritable >> (32 * i))};
  batch.must("set the capabilities of", SYS_capset, batch.object(header),
             batch.data(sets, sizeof sets));
}

}  // namespace

Credentials::Credentials(SyscallBatch& batch)
    : securebits_(batch.must("read the securebits of", SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0)) {}

void Credentials::store(const SyscallBatch& batch, const kernel::ProcStatus& status,
                        const std::string& lsm_label, const userns::IdMap& ids,
                        image::CredsEntry* creds) const {
  auto uid = [&](uint32_t id) { return ids.uid_inside(id, "process " + status.name); };
  auto gid = [&](uint32_t id) { return ids.gid_inside(id, "process " + status.name); };
  creds->set_uid(uid(status.uid[0]));
  creds->set_euid(uid(status.uid[1]));
  creds->set_suid(uid(status.uid[2]));
  creds->set_fsuid(uid(status.uid[3]));
  creds->set_gid(gid(status.gid[0]));
  creds->set_egid(gid(status.gid[1]));
  creds->set_sgid(gid(status.gid[2]));
  creds->set_fsgid(gid(status.gid[3]));
  for (uint32_t group : status.groups) creds->add_groups(gid(group));
  store_set(status.cap_inheritable, creds->mutable_cap_inh());
  store_set(status.cap_permitted, creds->mutable_cap_prm());
  store_set(status.cap_effective, creds->mutable_cap_eff());
  store_set(status.cap_bounding, creds->mutable_cap_bnd());
  store_set(status.cap_ambient, creds->mutable_cap_amb());
  creds->set_secbits(static_cast<uint32_t>(batch.result(securebits_)));
  if (status.no_new_privs) creds->set_no_new_privs(1);
  if (!lsm_label.empty()) creds->set_lsm_profile(lsm_label);
}

void restore_lsm_label(const std::string& label, image::Lsmtype type, int number,
                       SyscallBatch& batch) {
  if (label.empty()) return;
  std::string word = type == image::APPARMOR ? "changeprofile " + label : label;
  batch.must("open the LSM label of", SYS_openat, AT_FDCWD,
             batch.text("/proc/thread-self/attr/current"), O_WRONLY | O_CLOEXEC, 0);
  batch.must("set the LSM label of", SYS_write, number, batch.data(word.data(), word.size()),
             word.size());
  batch.must("close the LSM label of", SYS_close, number);
}

void restore_credentials(const image::CredsEntry& creds, unsigned last_cap, SyscallBatch& batch) {
  std::vector<uint32_t> groups(creds.groups().begin(), creds.groups().end());
  batch.must("set the groups of", SYS_setgroups, groups.size(),
             batch.data(groups.data(), groups.size() * sizeof(uint32_t)));
  // Without this, leaving uid 0 would clear the capabilities that are still needed.
  batch.must("set the securebits of", SYS_prctl, PR_SET_SECUREBITS,
             SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS, 0, 0, 0);
  batch.must("set the gids of", SYS_setresgid, creds.gid(), creds.egid(), creds.sgid());
  batch.may(SYS_setfsgid, creds.fsgid());
  batch.must("set the uids of", SYS_setresuid, creds.uid(), creds.euid(), creds.suid());
  batch.may(SYS_setfsuid, creds.fsuid());
  uint64_t bounding = load_set(creds.cap_bnd());
  for (unsigned cap = 0; cap <= last_cap; ++cap)
    if (!(bounding >> cap & 1))
      batch.must("drop a capability of", SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
  batch.must("set the securebits of", SYS_prctl, PR_SET_SECUREBITS, creds.secbits(), 0, 0, 0);

  set_capabilities(creds, batch);
  uint64_t ambient = load_set(creds.cap_amb());
  for (unsigned cap = 0; cap <= last_cap; ++cap)
    if (ambient >> cap & 1)
      batch.must("raise an ambient capability of", SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE,
                 cap, 0, 0);
  if (creds.no_new_privs() != 0)
    batch.must("set no_new_privs of", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

void lower_credentials(const image::CredsEntry& creds, const kernel::ProcStatus& now,
                       unsigned last_cap, SyscallBatch& batch) {
  std::vector<uint32_t> groups(creds.groups().begin(), creds.groups().end());
  std::sort(groups.begin(), groups.end());
  std::vector<uint32_t> groups_now = now.groups;
  std::sort(groups_now.begin(), groups_now.end());
  if (groups != groups_now)
    batch.must("set the groups of", SYS_setgroups, groups.size(),
               batch.data(groups.data(), groups.size() * sizeof(uint32_t)));
  uint64_t bounding = load_set(creds.cap_bnd());
  for (unsigned cap = 0; cap <= last_cap; ++cap)
    if (~bounding & now.cap_bounding & uint64_t{1} << cap)
      batch.must("drop a capability of", SYS_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);

  std::array<uint32_t, 4> uids{creds.uid(), creds.euid(), creds.suid(), creds.fsuid()};
  std::array<uint32_t, 4> gids{creds.gid(), creds.egid(), creds.sgid(), creds.fsgid()};
  if (gids != now.gid) {
    batch.must("set the gids of", SYS_setresgid, gids[0], gids[1], gids[2]);
    batch.may(SYS_setfsgid, gids[3]);
  }
  if (uids != now.uid) {
    // Otherwise leaving uid 0 would clear the capabilities.
    batch.must("keep the capabilities of", SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    batch.must("set the uids of", SYS_setresuid, uids[0], uids[1], uids[2]);
    batch.may(SYS_setfsuid, uids[3]);
    batch.must("keep the capabilities of", SYS_prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);
  }
  if (creds.secbits() == SECBIT_KEEP_CAPS)  // which anybody may set
    batch.must("keep the capabilities of", SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
  else if (creds.secbits() != 0)
    batch.must("set the securebits of", SYS_prctl, PR_SET_SECUREBITS, creds.secbits(), 0, 0, 0);
  set_capabilities(creds, batch);
  uint64_t ambient = load_set(creds.cap_amb());
  for (unsigned cap = 0; cap <= last_cap; ++cap) {
    uint64_t bit = uint64_t{1} << cap;
    if ((ambient ^ now.cap_ambient) & bit)
      batch.must("change an ambient capability of", SYS_prctl, PR_CAP_AMBIENT,
                 ambient & bit ? PR_CAP_AMBIENT_RAISE : PR_CAP_AMBIENT_LOWER, cap, 0, 0);
  }
}

}  // namespace stasis::engine
