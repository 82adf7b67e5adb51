/*
 * A plugin of stasis for volumes that a FUSE server of the host serves.
 *
 * Such a server mounts volume NAME at /run/volumes/NAME, with the type
 * fuse.volume and NAME as its source, and the mount may reach a container in a
 * way that no config.json tells of: it propagates, or an agent attaches it.
 * After a restore, maybe on another host, the volume of the same name is found
 * there, whatever server and device it has by then.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stasis_mount.h"

#define REGISTRY "/run/volumes/"

const unsigned stasis_mount_abi = STASIS_MOUNT_ABI;

__attribute__((format(printf, 3, 4))) static int fail(struct stasis_failure* failure, int code,
                                                      const char* format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(failure->text, failure->size, format, args);
  va_end(args);
  return -code;
}

static int claims(const struct stasis_mount* mount) { return !strcmp(mount->type, "fuse.volume"); }

/* Names become paths: the kernel's, and those of an image, are looked at alike. */
static int is_name(const char* name) {
  return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..") &&
         strlen(name) < 256;
}

static long describe(const struct stasis_mount* mount, char* description, size_t size,
                     struct stasis_failure* failure) {
  if (!is_name(mount->source))
    return fail(failure, EINVAL, "\"%s\" is no name of a volume", mount->source);
  int length = snprintf(description, size, "%s\n%s\n", mount->source, mount->options);
  if ((size_t)length >= size) return fail(failure, E2BIG, "its options are too long");
  return length;
}

/* What is mounted at `path` now, by this process's own table; its last line counts. */
static int is_volume(const char* path, const char* name) {
  FILE* table = fopen("/proc/self/mountinfo", "re");
  if (!table) return 0;
  char line[8192], point[1024], type[256], source[1024];
  int found = 0;
  while (fgets(line, sizeof line, table)) {
    const char* rest = strstr(line, " - ");
    if (!rest || sscanf(line, "%*s %*s %*s %*s %1023s", point) != 1 || strcmp(point, path))
      continue;
    found = sscanf(rest, " - %255s %1023s", type, source) == 2 && !strcmp(type, "fuse.volume") &&
            !strcmp(source, name);
  }
  fclose(table);
  return found;
}

static int make(const char* description, size_t size, struct stasis_failure* failure) {
  char name[256], path[sizeof REGISTRY + sizeof name];
  const char* end = memchr(description, '\n', size);
  if (!end || (size_t)(end - description) >= sizeof name)
    return fail(failure, EINVAL, "the image doesn't tell the volume's name");
  memcpy(name, description, (size_t)(end - description));
  name[end - description] = '\0';
  if (!is_name(name)) return fail(failure, EINVAL, "the image has no proper name for the volume");
  snprintf(path, sizeof path, REGISTRY "%s", name);
  if (!is_volume(path, name))
    return fail(failure, ENOENT, "volume %s isn't mounted at %s: start its server", name, path);
  int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  return fd < 0 ? fail(failure, errno, "%s can't be taken: %s", path, strerror(errno)) : fd;
}

static const struct stasis_mount_provider provider = {
    .name = "fuse-volume",
    .claims = claims,
    .describe = describe,
    .make = make,
};

const struct stasis_mount_provider* stasis_mount_entry(void) { return &provider; }
