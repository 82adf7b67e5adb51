#include "engine/namespaces/uts.h"

#include <sys/syscall.h>
#include <sys/utsname.h>

#include "kernel/call.h"

namespace stasis::engine::uts {

image::UtsnsEntry read() {
  utsname name{};
  kernel::must(kernel::call(SYS_uname, &name), "read", "the host name");
  image::UtsnsEntry entry;
  entry.set_nodename(name.nodename);
  entry.set_domainname(name.domainname);
  return entry;
}

void restore(const image::UtsnsEntry& names) {
  const std::string& host = names.nodename();
  const std::string& domain = names.domainname();
  kernel::must(kernel::call(SYS_sethostname, host.data(), host.size()), "set the host name", host);
  kernel::must(kernel::call(SYS_setdomainname, domain.data(), domain.size()), "set the domain name",
               domain);
}

}  // namespace stasis::engine::uts
