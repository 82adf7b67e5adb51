/*
 * volume_server NAME FILE: serves FILE as the only file, "text", of volume NAME,
 * mounted at /run/volumes/NAME, until it is unmounted. What fuse_volume.c finds.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int file; /* FILE, open */

static int is_text(const char* path) { return !strcmp(path, "/text"); }
static long or_errno(long result) { return result < 0 ? -errno : result; }

static int volume_getattr(const char* path, struct stat* stat, struct fuse_file_info* info) {
  (void)info;
  if (strcmp(path, "/") && !is_text(path)) return -ENOENT;
  if (fstat(file, stat)) return -errno;
  stat->st_mode = is_text(path) ? S_IFREG | 0644 : S_IFDIR | 0755;
  stat->st_ino = is_text(path) ? 2 : 1;
  stat->st_nlink = 1;
  return 0;
}

static int volume_readdir(const char* path, void* buffer, fuse_fill_dir_t add, off_t offset,
                          struct fuse_file_info* info, enum fuse_readdir_flags flags) {
  (void)path, (void)offset, (void)info, (void)flags;
  const char* names[] = {".", "..", "text"};
  for (size_t i = 0; i < 3; ++i) add(buffer, names[i], NULL, 0, 0);
  return 0;
}

static int volume_open(const char* path, struct fuse_file_info* info) {
  (void)info;
  return is_text(path) ? 0 : -ENOENT;
}

static int volume_read(const char* path, char* buffer, size_t size, off_t offset,
                       struct fuse_file_info* info) {
  (void)path, (void)info;
  return (int)or_errno(pread(file, buffer, size, offset));
}

static int volume_write(const char* path, const char* buffer, size_t size, off_t offset,
                        struct fuse_file_info* info) {
  (void)path, (void)info;
  return (int)or_errno(pwrite(file, buffer, size, offset));
}

static int volume_truncate(const char* path, off_t size, struct fuse_file_info* info) {
  (void)path, (void)info;
  return (int)or_errno(ftruncate(file, size));
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "volume_server NAME FILE\n"), 2;
  char point[512], options[512];
  snprintf(point, sizeof point, "/run/volumes/%s", argv[1]);
  snprintf(options, sizeof options, "-oallow_other,subtype=volume,fsname=%s", argv[1]);
  file = open(argv[2], O_RDWR | O_CLOEXEC);
  if (file < 0) return perror(argv[2]), 1;
  const struct fuse_operations operations = {
      .getattr = volume_getattr,
      .readdir = volume_readdir,
      .open = volume_open,
      .read = volume_read,
      .write = volume_write,
      .truncate = volume_truncate,
  };
  char* arguments[] = {argv[0], "-f", "-s", options, point, NULL};
  return fuse_main(5, arguments, &operations, NULL);
}
