#include "engine/tasks/registers.h"

#include <cpuid.h>
#include <fmt/core.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "engine/remote/healing_stub.h"

namespace stasis::engine {

namespace {

// The legacy FXSAVE part of an XSAVE area (Intel SDM vol. 1, 10.5 and 13.4).
struct Fxsave {
  uint16_t cwd, swd, twd, fop;
  uint64_t rip, rdp;
  uint32_t mxcsr, mxcsr_mask;
  uint32_t st_space[32];
  uint32_t xmm_space[64];
  uint32_t reserved[24];
};
static_assert(sizeof(Fxsave) == 512);
constexpr size_t header = sizeof(Fxsave);  // xstate_bv, xcomp_bv, reserved
constexpr size_t header_size = 64;

enum Feature : unsigned {
  ymm = 2,
  bndregs = 3,
  bndcsr = 4,
  opmask = 5,
  zmm_hi256 = 6,
  hi16_zmm = 7,
  pkru = 9,
};

struct Component {
  uint32_t offset = 0, size = 0;
};

// Where the state components lie in the standard format; size 0 if not there.
// A hypervisor takes its time to answer CPUID, so it is asked once.
const std::array<Component, pkru + 1>& layout() {
  static const auto components = [] {
    std::array<Component, pkru + 1> found{};
    for (unsigned feature = ymm; feature <= pkru; ++feature) {
      uint32_t size, offset, flags, unused;
      if (__get_cpuid_count(0xd, feature, &size, &offset, &flags, &unused))
        found[feature] = {offset, size};
    }
    return found;
  }();
  return components;
}

template <typename Field>
void store_component(const std::vector<uint8_t>& area, unsigned feature, Field* field) {
  Component c = layout().at(feature);
  if (c.size == 0 || c.offset + c.size > area.size()) return;
  field->Resize(static_cast<int>(c.size / sizeof(*field->data())), 0);
  memcpy(field->mutable_data(), area.data() + c.offset, c.size);
}

template <typename Field>
void load_component(std::vector<uint8_t>& area, uint64_t xstate_bv, unsigned feature,
                    const char* name, const Field& field) {
  size_t bytes = static_cast<size_t>(field.size()) * sizeof(*field.data());
  Component c = layout().at(feature);
  bool fits = c.size >= bytes && c.offset + c.size <= area.size();
  if (bytes > 0 && fits) memcpy(area.data() + c.offset, field.data(), bytes);
  if ((xstate_bv >> feature & 1) && (!fits || bytes == 0))
    throw Error("restore the FPU state", name)
        .because("the image holds it and this processor does not have it")
        .hint("restore on a machine whose CPU has the features of the one it was dumped on");
}

}  // namespace

void prepare_registers() { layout(); }

void store_registers(const Registers& registers, const std::vector<uint8_t>& xstate,
                     image::ThreadInfoX86* info) {
  Registers r = resumable(registers);
  constexpr long restart_block = -516;
  if (static_cast<int64_t>(registers.orig_rax) >= 0 &&
      static_cast<long>(registers.rax) == restart_block) {
    // What the kernel remembers of the call does not survive: it ends as if a
    // signal had come.
    r = registers;
    r.rax = static_cast<uint64_t>(-EINTR);
  }
  image::UserX86RegsEntry* g = info->mutable_gpregs();
  g->set_r15(r.r15);
  g->set_r14(r.r14);
  g->set_r13(r.r13);
  g->set_r12(r.r12);
  g->set_bp(r.rbp);
  g->set_bx(r.rbx);
  g->set_r11(r.r11);
  g->set_r10(r.r10);
  g->set_r9(r.r9);
  g->set_r8(r.r8);
  g->set_ax(r.rax);
  g->set_cx(r.rcx);
  g->set_dx(r.rdx);
  g->set_si(r.rsi);
  g->set_di(r.rdi);
  g->set_orig_ax(r.orig_rax);
  g->set_ip(r.rip);
  g->set_cs(r.cs);
  g->set_flags(r.eflags);
  g->set_sp(r.rsp);
  g->set_ss(r.ss);
  g->set_fs_base(r.fs_base);
  g->set_gs_base(r.gs_base);
  g->set_ds(r.ds);
  g->set_es(r.es);
  g->set_fs(r.fs);
  g->set_gs(r.gs);
  g->set_mode(image::NATIVE);

  Fxsave fx;
  memcpy(&fx, xstate.data(), sizeof fx);
  image::UserX86FpregsEntry* f = info->mutable_fpregs();
  f->set_cwd(fx.cwd);
  f->set_swd(fx.swd);
  f->set_twd(fx.twd);
  f->set_fop(fx.fop);
  f->set_rip(fx.rip);
  f->set_rdp(fx.rdp);
  f->set_mxcsr(fx.mxcsr);
  f->set_mxcsr_mask(fx.mxcsr_mask);
  f->mutable_st_space()->Add(std::begin(fx.st_space), std::end(fx.st_space));
  f->mutable_xmm_space()->Add(std::begin(fx.xmm_space), std::end(fx.xmm_space));
  if (xstate.size() < header + header_size) return;
  image::UserX86XsaveEntry* x = f->mutable_xsave();
  uint64_t xstate_bv;
  memcpy(&xstate_bv, xstate.data() + header, sizeof xstate_bv);
  x->set_xstate_bv(xstate_bv);
  store_component(xstate, ymm, x->mutable_ymmh_space());
  store_component(xstate, bndregs, x->mutable_bndreg_state());
  store_component(xstate, bndcsr, x->mutable_bndcsr_state());
  store_component(xstate, opmask, x->mutable_opmask_reg());
  store_component(xstate, zmm_hi256, x->mutable_zmm_upper());
  store_component(xstate, hi16_zmm, x->mutable_hi16_zmm());
  store_component(xstate, pkru, x->mutable_pkru());
}

Registers load_registers(const image::ThreadInfoX86& info, const Registers& fresh) {
  const image::UserX86RegsEntry& g = info.gpregs();
  Registers r = fresh;
  r.r15 = g.r15();
  r.r14 = g.r14();
  r.r13 = g.r13();
  r.r12 = g.r12();
  r.rbp = g.bp();
  r.rbx = g.bx();
  r.r11 = g.r11();
  r.r10 = g.r10();
  r.r9 = g.r9();
  r.r8 = g.r8();
  r.rax = g.ax();
  r.rcx = g.cx();
  r.rdx = g.dx();
  r.rsi = g.si();
  r.rdi = g.di();
  r.rip = g.ip();
  r.rsp = g.sp();
  r.eflags = g.flags();
  r.fs_base = g.fs_base();
  r.gs_base = g.gs_base();
  r.orig_rax = ~0ull;  // nothing is to be restarted: store_registers() saw to that
  return r;
}

std::vector<uint8_t> load_xstate(const image::ThreadInfoX86& info,
                                 const std::vector<uint8_t>& fresh) {
  const image::UserX86FpregsEntry& f = info.fpregs();
  std::vector<uint8_t> area(fresh.size(), 0);
  Fxsave fx{};
  memcpy(&fx, fresh.data(), sizeof fx);  // the reserved tail describes the area itself
  uint32_t mask = fx.mxcsr_mask ? fx.mxcsr_mask : 0xffbf;
  fx.cwd = static_cast<uint16_t>(f.cwd());
  fx.swd = static_cast<uint16_t>(f.swd());
  fx.twd = static_cast<uint16_t>(f.twd());
  fx.fop = static_cast<uint16_t>(f.fop());
  fx.rip = f.rip();
  fx.rdp = f.rdp();
  fx.mxcsr = f.mxcsr() & mask;
  for (int i = 0; i < std::min(f.st_space_size(), 32); ++i) fx.st_space[i] = f.st_space(i);
  for (int i = 0; i < std::min(f.xmm_space_size(), 64); ++i) fx.xmm_space[i] = f.xmm_space(i);
  memcpy(area.data(), &fx, sizeof fx);
  if (area.size() < header + header_size) return area;

  uint64_t xstate_bv = 3;  // x87 and SSE
  if (f.has_xsave()) {
    const image::UserX86XsaveEntry& x = f.xsave();
    xstate_bv = x.xstate_bv();
    load_component(area, xstate_bv, ymm, "of AVX", x.ymmh_space());
    load_component(area, xstate_bv, bndregs, "of MPX", x.bndreg_state());
    load_component(area, xstate_bv, bndcsr, "of MPX", x.bndcsr_state());
    load_component(area, xstate_bv, opmask, "of AVX-512", x.opmask_reg());
    load_component(area, xstate_bv, zmm_hi256, "of AVX-512", x.zmm_upper());
    load_component(area, xstate_bv, hi16_zmm, "of AVX-512", x.hi16_zmm());
    load_component(area, xstate_bv, pkru, "of protection keys", x.pkru());
  }
  constexpr uint64_t known = 0b1011111111 & ~(uint64_t{1} << 8);
  if (xstate_bv & ~known)
    throw Error("restore the FPU state", "")
        .because(fmt::format("the image holds state components {:#x} that stasis does not know",
                             xstate_bv & ~known));
  memcpy(area.data() + header, &xstate_bv, sizeof xstate_bv);
  return area;
}

}  // namespace stasis::engine
