// Creates, looks at, reads or removes many small files, with one or more processes at once, and
// prints how long that took. A script would be slower than what it measures.
//
//   cc -O2 -o smallfiles smallfiles.c
//   smallfiles create|stat|read|unlink DIRECTORY FILES PROCESSES BYTES
//
// Each process has directories of its own with kFilesPerDirectory files each. stat, read and unlink
// find their files with readdir, as find, rsync and rm do. One line of JSON on success.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <error.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kFilesPerDirectory = 500, kProcessesMax = 64 };

static size_t file_bytes;
static char* content;  // of every file
static char* buffer;

static int must(int result, const char* what, const char* name) {
  if (result < 0) error(1, errno, "%s %s", what, name);
  return result;
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void create_files(int directory, long count) {
  char name[32];
  for (long index = 0; index < count; ++index) {
    snprintf(name, sizeof name, "file-%06ld", index);
    int file = must(openat(directory, name, O_CREAT | O_EXCL | O_WRONLY, 0644), "create", name);
    if (write(file, content, file_bytes) != (ssize_t)file_bytes) error(1, errno, "write %s", name);
    must(close(file), "close", name);
  }
}

static void read_file(int directory, const char* name) {
  int file = must(openat(directory, name, O_RDONLY), "open", name);
  size_t total = 0;
  ssize_t got;
  while ((got = read(file, buffer + total, file_bytes + 1 - total)) > 0) total += (size_t)got;
  must((int)got, "read", name);
  if (total != file_bytes || memcmp(buffer, content, file_bytes) != 0)
    error(1, 0, "%s does not hold what was written", name);
  close(file);
}

// Applies the phase to every file of a directory; returns how many there were. Names are collected
// before the first is removed, because readdir need not show what is left of a changing directory.
static long visit_files(int directory, const char* phase) {
  static char names[kFilesPerDirectory][NAME_MAX + 1];
  DIR* stream = fdopendir(dup(directory));
  if (stream == NULL) error(1, errno, "opendir");
  long count = 0;
  for (struct dirent* entry; (entry = readdir(stream)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    struct stat status;
    if (phase[0] == 's') {
      must(fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW), "stat", entry->d_name);
      if ((size_t)status.st_size != file_bytes) error(1, 0, "%s has a wrong size", entry->d_name);
    } else if (phase[0] == 'r') {
      read_file(directory, entry->d_name);
    } else {
      if (count == kFilesPerDirectory) error(1, 0, "a directory holds too many files");
      snprintf(names[count], sizeof names[count], "%s", entry->d_name);
    }
    ++count;
  }
  closedir(stream);
  for (long index = 0; phase[0] == 'u' && index < count; ++index)
    must(unlinkat(directory, names[index], 0), "unlink", names[index]);
  return count;
}

static void run_process(const char* phase, const char* root, long process, long files) {
  char path[4096];
  long seen = 0;
  for (long first = 0; first < files; first += kFilesPerDirectory) {
    long count = files - first < kFilesPerDirectory ? files - first : kFilesPerDirectory;
    snprintf(path, sizeof path, "%s/process-%ld/directory-%04ld", root, process,
             first / kFilesPerDirectory);
    int directory = must(open(path, O_RDONLY | O_DIRECTORY), "open", path);
    if (phase[0] == 'c') {
      create_files(directory, count);
      seen += count;
    } else {
      seen += visit_files(directory, phase);
    }
    close(directory);
  }
  if (seen != files) error(1, 0, "found %ld files, not %ld", seen, files);
}

static void make_directories(const char* root, long processes, long files) {
  char path[4096];
  for (long process = 0; process < processes; ++process) {
    snprintf(path, sizeof path, "%s/process-%ld", root, process);
    must(mkdir(path, 0755), "mkdir", path);
    for (long first = 0; first < files; first += kFilesPerDirectory) {
      snprintf(path, sizeof path, "%s/process-%ld/directory-%04ld", root, process,
               first / kFilesPerDirectory);
      must(mkdir(path, 0755), "mkdir", path);
    }
  }
}

int main(int argc, char** argv) {
  if (argc != 6)
    error(2, 0, "usage: smallfiles create|stat|read|unlink DIRECTORY FILES PROCESSES BYTES");
  const char *phase = argv[1], *root = argv[2];
  long processes = atol(argv[4]), files = atol(argv[3]) / (processes > 0 ? processes : 1);
  file_bytes = (size_t)atol(argv[5]);
  if (strchr("csru", phase[0]) == NULL || processes < 1 || processes > kProcessesMax || files < 1)
    error(2, 0, "bad arguments");
  content = malloc(file_bytes);
  buffer = malloc(file_bytes + 1);
  if (content == NULL || buffer == NULL) error(1, errno, "malloc");
  for (size_t index = 0; index < file_bytes; ++index) content[index] = (char)(index * 31 + 7);
  if (phase[0] == 'c') make_directories(root, processes, files);

  // The children wait until the pipe is closed, so the clock starts when all of them stand ready.
  int ready[2];
  must(pipe(ready), "pipe", "");
  for (long process = 0; process < processes; ++process) {
    if (must(fork(), "fork", "") == 0) {
      char byte;
      close(ready[1]);
      must((int)read(ready[0], &byte, 1), "read", "pipe");
      run_process(phase, root, process, files);
      _exit(0);
    }
  }
  close(ready[0]);
  double started = seconds_now();
  close(ready[1]);
  int failed = 0;
  for (long process = 0; process < processes; ++process) {
    int status;
    must(wait(&status), "wait", "");
    if (status != 0) failed = 1;
  }
  double seconds = seconds_now() - started;
  if (failed) return 1;
  printf("{\"phase\": \"%s\", \"files\": %ld, \"seconds\": %.6f}\n", phase, files * processes,
         seconds);
  return 0;
}
