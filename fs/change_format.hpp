// Changes of the tree: bytes to struct and back, for the journal and for runs.
//
// A journal record is a sequence of changes, each {type u8, length u32, body}; types 1 to 63 are
// ours, 64 to 127 belong to extent/. A run has one entry per inode, name, attribute and window,
// with keys that keep everything of an inode together: inode u64 big-endian, tag u8, then what the
// tag says. That an inode is gone is the prefix deletion of its number.
//
// Format  man/format.md, "Tree changes" and "Keys".
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "extent/store.hpp"
#include "fs/inode_table.hpp"
#include "journal/journal.hpp"

namespace dynamicfs::fs {

enum class ChangeType : std::uint8_t {
  kInodePut = 1,
  kInodeRemove = 2,  // with everything that belongs to it
  kEntryPut = 3,
  kEntryRemove = 4,
  kXattrPut = 5,
  kXattrRemove = 6,
  kSymlinkPut = 7,
  kInodeLimit = 8,  // numbers below this one may have been used
};

// What a record or a run says of an inode.
struct InodeImage {
  InodeId inode;
  std::uint32_t mode = 0;
  std::uint32_t nlink = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t rdev = 0;
  std::uint64_t size_bytes = 0;
  std::int64_t atime_ns = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  std::int64_t btime_ns = 0;
  InodeId parent;
  std::uint32_t flags = 0;
};
inline constexpr std::size_t kInodeImageBytes = 8 + 5 * 4 + 8 + 4 * 8 + 8 + 4;

InodeImage image_of(const Inode& inode) DFS_REQUIRES(inode.mutex);

struct EntryChange {
  InodeId directory;
  std::uint64_t cookie = 0;
  InodeId inode;
  std::uint32_t type_bits = 0;
  std::string name;
};
struct XattrChange {
  InodeId inode;
  std::string name;
  std::string value;
};

// Collects the changes of one operation into one record.
class RecordWriter {
 public:
  RecordWriter() : out_(bytes_) { bytes_.reserve(256); }
  void inode_put(const InodeImage& image);
  void inode_remove(InodeId inode);
  void entry_put(InodeId directory, std::uint64_t cookie, InodeId inode, std::uint32_t type_bits,
                 std::string_view name);
  void entry_remove(InodeId directory, std::uint64_t cookie);
  void xattr_put(InodeId inode, std::string_view name, std::string_view value);
  void xattr_remove(InodeId inode, std::string_view name);
  void symlink_put(InodeId inode, std::string_view target);
  void inode_limit(InodeId limit);
  // The blocks at `first` are what was written.
  void extent_put(InodeId inode, FileBlock first, const extent::Written& written);
  // For the other encoders of extent/.
  ByteWriter& raw() { return out_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  journal::RecordOrder order() const { return order_; }

 private:
  void change(ChangeType type, std::size_t length);
  Bytes bytes_;
  ByteWriter out_;
  journal::RecordOrder order_ = journal::RecordOrder::kBesideData;
};

// Calls `each` for every change of a record, in order. kFormatInvalid when it does not parse.
Result<void> for_each_change(
    std::span<const std::byte> record,
    const std::function<Result<void>(std::uint8_t type, std::span<const std::byte> body)>& each);

// Bodies. kFormatInvalid for anything the writer, or the one of format 3, would not write.
Result<InodeImage> decode_inode(std::span<const std::byte> body);
Result<InodeId> decode_inode_id(std::span<const std::byte> body);
Result<EntryChange> decode_entry_put(std::span<const std::byte> body);
Result<EntryChange> decode_entry_remove(std::span<const std::byte> body);
Result<XattrChange> decode_xattr_put(std::span<const std::byte> body);
Result<XattrChange> decode_xattr_remove(std::span<const std::byte> body);
Result<XattrChange> decode_symlink_put(std::span<const std::byte> body);

// Keys of runs.

// In the order they stand in a run. Inode 0 is the pool itself.
enum class KeyTag : std::uint8_t {
  kInode = 1,    // value: StoredInode
  kSymlink = 2,  // value: target
  kXattr = 3,    // key: part u16 big-endian behind the name and a NUL; value: a piece of the value
  kEntry = 4,    // key: cookie u64 big-endian; value: inode u64, type u32, name
  kWindow = 5,   // key: window u64 big-endian; value: as FileMap::for_each_dirty gives it
  kPoolState = 1,   // inode 0; value: PoolState
  kPoolChunk = 2,   // inode 0; key: chunk u32 big-endian; value: extent::ChunkState
  kPoolOrphan = 3,  // inode 0; key: inode u64 big-endian; no value
};

struct Key {
  InodeId inode;
  KeyTag tag = KeyTag::kInode;
  std::span<const std::byte> rest;
};
Bytes make_key(InodeId inode, KeyTag tag, std::span<const std::byte> rest = {});
// What every key of this inode begins with, and no other.
Bytes inode_prefix(InodeId inode);
Result<Key> parse_key(std::span<const std::byte> key);

// What is looked up together has one hash in the filters of the runs: what an inode is, with its
// attributes; the names of a piece of a directory; a window. What belongs to the pool is read as a
// whole and has none.
std::uint64_t head_hash(InodeId inode);
std::uint64_t names_hash(InodeId directory, std::uint64_t cookie);
inline constexpr std::uint64_t kCookiesPerHash = 16;
std::uint64_t window_hash(InodeId inode, WindowId window);
std::optional<std::uint64_t> filter_hash(std::span<const std::byte> key);

// An inode as a run has it, with what cannot be told without reading all of it.
struct StoredInode {
  InodeImage image;
  std::uint64_t data_blocks = 0;      // files
  std::uint64_t reserved_blocks = 0;  // files
  std::uint64_t names = 0;            // directories
};
Bytes encode(const StoredInode& inode);
Result<StoredInode> decode_stored_inode(std::span<const std::byte> value);

Bytes encode_entry(const Entry& entry);
Result<Entry> decode_entry(std::span<const std::byte> value);

// What the pool as a whole has to remember.
struct PoolState {
  std::uint64_t inode_limit = 0;  // numbers below may have been used
  std::uint64_t inodes = 0;
  std::uint64_t reserved_blocks = 0;  // promised to files, without data
  std::uint32_t next_chunk = 0;
};
Bytes encode(const PoolState& state);
Result<PoolState> decode_pool_state(std::span<const std::byte> value);

// Big-endian, so that bytewise order is numeric order.
template <class T>
std::array<std::byte, sizeof(T)> big_endian(T value) {
  std::array<std::byte, sizeof(T)> out;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out[i] = static_cast<std::byte>(value >> (8 * (sizeof(T) - 1 - i)));
  }
  return out;
}
template <class T>
T from_big_endian(std::span<const std::byte> bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value << 8 | static_cast<T>(bytes[i]));
  return value;
}

}  // namespace dynamicfs::fs
