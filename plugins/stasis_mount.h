/*
 * The interface of plugins that make mounts, version 1: docs/plugins.md.
 *
 * A plugin is a shared object, written in any language that can export these
 * two symbols of C. It knows one kind of mount that neither a runtime's
 * configuration nor the kernel alone can make again: what it is, what to write
 * down about it, and how to make it.
 */
#ifndef STASIS_MOUNT_H
#define STASIS_MOUNT_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STASIS_MOUNT_ABI 1

/* NOLINTBEGIN(readability-identifier-naming): names of C */

/* A mount of the container, as /proc/PID/mountinfo shows it, unescaped. */
struct stasis_mount {
  size_t size;            /* of this structure: a later stasis may know more fields */
  const char* type;       /* "fuse.volume" */
  const char* source;     /* "photos" */
  const char* root;       /* what of the file system it shows: "/" is all */
  const char* mountpoint; /* in the container */
  const char* options;    /* of the superblock */
  unsigned major, minor;
};

/* Where a function says why it failed, in words; `size` bytes with the NUL. */
struct stasis_failure {
  char* text;
  size_t size;
};

#define STASIS_MOUNT_DESCRIPTION_MAX 65536

struct stasis_mount_provider {
  const char* name; /* stands in images; letters, digits, "-" and "_" */

  /* Nonzero: the mount is of this kind. */
  int (*claims)(const struct stasis_mount* mount);

  /*
   * Writes down all that make() will need, maybe on another host: at most
   * `size` (STASIS_MOUNT_DESCRIPTION_MAX) bytes of any content. Returns how
   * many, or -errno: then there is no checkpoint. Runs on the host, as root,
   * before anything is frozen.
   */
  long (*describe)(const struct stasis_mount* mount, char* description, size_t size,
                   struct stasis_failure* failure);

  /*
   * Makes the whole file system: a descriptor of a mount attached nowhere, as
   * fsmount() and open_tree(OPEN_TREE_CLONE) give, or -errno. stasis takes the
   * part that the container showed and gives it its place and flags. Runs on
   * the host, as root. The description comes from an image, which somebody may
   * have changed: check it.
   */
  int (*make)(const char* description, size_t size, struct stasis_failure* failure);
};

/* NOLINTEND(readability-identifier-naming) */

/* What a plugin exports. The first is looked at before anything is called. */
extern const unsigned stasis_mount_abi; /* = STASIS_MOUNT_ABI */
const struct stasis_mount_provider* stasis_mount_entry(void);

#ifdef __cplusplus
}
#endif

#endif
