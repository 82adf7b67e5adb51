/* Plugins that can't be used, each for another reason. */
#include <stddef.h>

#include "../stasis_mount.h"

#ifdef BROKEN_VERSION
const unsigned stasis_mount_abi = 7;
#elif !defined(BROKEN_EMPTY)
const unsigned stasis_mount_abi = STASIS_MOUNT_ABI;
#endif

#ifdef BROKEN_CALLS
static const struct stasis_mount_provider provider = {.name = "broken"};
const struct stasis_mount_provider* stasis_mount_entry(void) { return &provider; }
#endif

#ifdef BROKEN_SYMBOL
int of_nobody(void);
int calls_nobody(void) { return of_nobody(); }
#endif
