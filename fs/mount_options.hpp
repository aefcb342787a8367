// The words behind `-o`: ours, the kernel's, and what fstab leaves in passing.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/executor.hpp"
#include "fs/filesystem.hpp"
#include "fs/refusal.hpp"
#include "journal/settle.hpp"
#include "scheduler/io_queue.hpp"

namespace dynamicfs::fs {

// A sixteenth of the memory that the machine or our control group has, 128 to 512 MiB.
std::uint64_t usual_write_memory_bytes();

struct MountOptions {
  unsigned long flags = 0;  // MS_RDONLY ... of mount(2)
  bool read_only = false;
  bool writeback = true;
  bool acl = false;
  bool io_uring = false;
  // Others than who mounts may use the tree. Of root always.
  bool allow_other = false;
  int workers_per_disk = 2;
  scheduler::IoQueueOptions queue;  // of each disk
  unsigned readers = 2;
  std::uint64_t write_memory_bytes = usual_write_memory_bytes();
  std::uint64_t read_memory_bytes = 256 << 20;
  std::uint64_t metadata_memory_bytes = 256 << 20;
  Duration commit_interval{std::chrono::seconds{5}};
  Duration scrub_every{std::chrono::hours{24 * 30}};  // 0: never
  Duration rebuild_after{std::chrono::minutes{10}};   // 0: never
  journal::CommitOptions group_commit;
  std::string alarm;               // a program, absolute; empty: none
  std::vector<std::string> disks;  // disk=PATH, made absolute
};

// What noatime, strictatime and nodiratime ask for.
AtimeRules atime_rules(unsigned long flags);

// What the kernel shows of a mount and mount(8) gives back for a remount is ignored; whether `remount` was
// among the words.
bool take_remount(std::vector<std::string>& lists);

// `text` is a comma-separated list; may be empty. An unknown word is refused by name (kUsage).
Outcome<void> parse_mount_options(std::string_view text, MountOptions& options);

// "100G", "512M", "4096", "1T", "1.5T": bytes, in binary units; nothing for what is no size.
std::optional<std::uint64_t> parse_size(std::string_view text);
// "1.5 TiB", "640 KiB": three digits or so, for people.
std::string size_text(std::uint64_t bytes);
// An absolute path for what a user gave; not resolved, so that it reads as it was written.
std::string absolute_path(const std::string& path);

}  // namespace dynamicfs::fs
