#include "fs/change_format.hpp"

#include "fs/filesystem.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::size_t kEntryFixedBytes = 8 + 8 + 8 + 4 + 2;
// A change in a record begins with its kind and size, which an entry of a run does not have.
constexpr std::size_t kChangeHeaderBytes = 1 + 4;

void put_image(ByteWriter& out, const InodeImage& image) {
  out.put(image.inode);
  out.put(image.mode);
  out.put(image.nlink);
  out.put(image.uid);
  out.put(image.gid);
  out.put(image.rdev);
  out.put(image.size_bytes);
  out.put(image.atime_ns);
  out.put(image.mtime_ns);
  out.put(image.ctime_ns);
  out.put(image.btime_ns);
  out.put(image.parent);
  out.put(image.flags);
}

bool name_is_valid(std::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace

InodeImage image_of(const Inode& inode) {
  InodeImage image;
  image.inode = inode.id;
  image.mode = inode.mode;
  image.nlink = inode.nlink;
  image.uid = inode.uid;
  image.gid = inode.gid;
  image.rdev = inode.rdev;
  image.size_bytes = inode.size_bytes.load(std::memory_order_relaxed);
  image.atime_ns = inode.atime_ns.load(std::memory_order_relaxed);
  image.mtime_ns = inode.mtime_ns.load(std::memory_order_relaxed);
  image.ctime_ns = inode.ctime_ns.load(std::memory_order_relaxed);
  image.btime_ns = inode.btime_ns;
  image.parent = inode.parent;
  image.flags = inode.flags.load(std::memory_order_relaxed);
  return image;
}

void RecordWriter::change(ChangeType type, std::size_t length) {
  out_.put(static_cast<std::uint8_t>(type));
  out_.put(static_cast<std::uint32_t>(length));
}

void RecordWriter::inode_put(const InodeImage& image) {
  change(ChangeType::kInodePut, kInodeImageBytes);
  put_image(out_, image);
}
void RecordWriter::inode_remove(InodeId inode) {
  change(ChangeType::kInodeRemove, 8);
  out_.put(inode);
}
void RecordWriter::entry_put(InodeId directory, std::uint64_t cookie, InodeId inode,
                             std::uint32_t type_bits, std::string_view name) {
  change(ChangeType::kEntryPut, kEntryFixedBytes + name.size());
  out_.put(directory);
  out_.put(cookie);
  out_.put(inode);
  out_.put(type_bits);
  out_.put_sized<std::uint16_t>(name);
}
void RecordWriter::entry_remove(InodeId directory, std::uint64_t cookie) {
  change(ChangeType::kEntryRemove, 16);
  out_.put(directory);
  out_.put(cookie);
}
void RecordWriter::xattr_put(InodeId inode, std::string_view name, std::string_view value) {
  change(ChangeType::kXattrPut, 8 + 2 + name.size() + 4 + value.size());
  out_.put(inode);
  out_.put_sized<std::uint16_t>(name);
  out_.put_sized<std::uint32_t>(value);
}
void RecordWriter::xattr_remove(InodeId inode, std::string_view name) {
  change(ChangeType::kXattrRemove, 8 + 2 + name.size());
  out_.put(inode);
  out_.put_sized<std::uint16_t>(name);
}
void RecordWriter::symlink_put(InodeId inode, std::string_view target) {
  change(ChangeType::kSymlinkPut, 8 + 2 + target.size());
  out_.put(inode);
  out_.put_sized<std::uint16_t>(target);
}
void RecordWriter::extent_put(InodeId inode, FileBlock first, const extent::Written& written) {
  extent::encode(out_, inode, first, written.pieces, written.crcs);
  if (written.striped) order_ = journal::RecordOrder::kBehindData;
}

void RecordWriter::inode_limit(InodeId limit) {
  change(ChangeType::kInodeLimit, 8);
  out_.put(limit);
}

Result<void> for_each_change(
    std::span<const std::byte> record,
    const std::function<Result<void>(std::uint8_t, std::span<const std::byte>)>& each) {
  ByteReader in(record);
  while (!in.at_end()) {
    const auto type = in.get<std::uint8_t>();
    const auto body = in.get_sized<std::uint32_t>();
    if (!in.ok()) return error(Code::kFormatInvalid, record.size());
    TRY(each(type, body));
  }
  return {};
}

Result<InodeImage> decode_inode(std::span<const std::byte> body) {
  ByteReader in(body);
  InodeImage image;
  image.inode = in.get<InodeId>();
  image.mode = in.get<std::uint32_t>();
  image.nlink = in.get<std::uint32_t>();
  image.uid = in.get<std::uint32_t>();
  image.gid = in.get<std::uint32_t>();
  image.rdev = in.get<std::uint32_t>();
  image.size_bytes = in.get<std::uint64_t>();
  image.atime_ns = in.get<std::int64_t>();
  image.mtime_ns = in.get<std::int64_t>();
  image.ctime_ns = in.get<std::int64_t>();
  image.btime_ns = in.get<std::int64_t>();
  image.parent = in.get<InodeId>();
  if (!in.at_end()) image.flags = in.get<std::uint32_t>();  // format 3 had none
  if (!in.ok() || !in.at_end() || image.inode.raw == 0) return Code::kFormatInvalid;
  return image;
}

Result<InodeId> decode_inode_id(std::span<const std::byte> body) {
  ByteReader in(body);
  const auto inode = in.get<InodeId>();
  if (!in.ok() || !in.at_end() || inode.raw == 0) return Code::kFormatInvalid;
  return inode;
}

Result<EntryChange> decode_entry_put(std::span<const std::byte> body) {
  ByteReader in(body);
  EntryChange change;
  change.directory = in.get<InodeId>();
  change.cookie = in.get<std::uint64_t>();
  change.inode = in.get<InodeId>();
  change.type_bits = in.get<std::uint32_t>();
  change.name = in.get_text<std::uint16_t>();
  if (!in.ok() || !in.at_end() || !name_is_valid(change.name) || change.inode.raw == 0) {
    return Code::kFormatInvalid;
  }
  return change;
}

Result<EntryChange> decode_entry_remove(std::span<const std::byte> body) {
  ByteReader in(body);
  EntryChange change;
  change.directory = in.get<InodeId>();
  change.cookie = in.get<std::uint64_t>();
  if (!in.ok() || !in.at_end()) return Code::kFormatInvalid;
  return change;
}

Result<XattrChange> decode_xattr_put(std::span<const std::byte> body) {
  ByteReader in(body);
  XattrChange change;
  change.inode = in.get<InodeId>();
  change.name = in.get_text<std::uint16_t>();
  change.value = in.get_text<std::uint32_t>();
  if (!in.ok() || !in.at_end() || change.name.empty()) return Code::kFormatInvalid;
  return change;
}

Result<XattrChange> decode_xattr_remove(std::span<const std::byte> body) {
  ByteReader in(body);
  XattrChange change;
  change.inode = in.get<InodeId>();
  change.name = in.get_text<std::uint16_t>();
  if (!in.ok() || !in.at_end() || change.name.empty()) return Code::kFormatInvalid;
  return change;
}

Result<XattrChange> decode_symlink_put(std::span<const std::byte> body) {
  ByteReader in(body);
  XattrChange change;
  change.inode = in.get<InodeId>();
  change.value = in.get_text<std::uint16_t>();
  if (!in.ok() || !in.at_end()) return Code::kFormatInvalid;
  return change;
}

Bytes make_key(InodeId inode, KeyTag tag, std::span<const std::byte> rest) {
  Bytes key;
  key.reserve(9 + rest.size());
  const auto id = big_endian(inode.raw);
  key.insert(key.end(), id.begin(), id.end());
  key.push_back(static_cast<std::byte>(tag));
  key.insert(key.end(), rest.begin(), rest.end());
  return key;
}

Bytes inode_prefix(InodeId inode) {
  const auto id = big_endian(inode.raw);
  return {id.begin(), id.end()};
}

namespace {

// The finaliser of MurmurHash3 over each part in turn.
std::uint64_t mix_in(std::uint64_t seed, std::uint64_t value) {
  std::uint64_t hash = seed * 0x9e3779b97f4a7c15 + value;
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53;
  return hash ^ (hash >> 33);
}

std::uint64_t hash_of(InodeId inode, KeyTag tag, std::uint64_t rest) {
  return mix_in(mix_in(static_cast<std::uint64_t>(tag), inode.raw), rest);
}

}  // namespace

std::uint64_t head_hash(InodeId inode) { return hash_of(inode, KeyTag::kInode, 0); }
std::uint64_t names_hash(InodeId directory, std::uint64_t cookie) {
  return hash_of(directory, KeyTag::kEntry, cookie / kCookiesPerHash);
}
std::uint64_t window_hash(InodeId inode, WindowId window) {
  return hash_of(inode, KeyTag::kWindow, window.raw);
}

std::optional<std::uint64_t> filter_hash(std::span<const std::byte> key) {
  if (key.size() < 8) return std::nullopt;
  const InodeId inode{from_big_endian<std::uint64_t>(key.first(8))};
  if (inode.raw == 0) return std::nullopt;
  if (key.size() >= 9 + 8) {
    const auto number = from_big_endian<std::uint64_t>(key.subspan(9, 8));
    if (static_cast<KeyTag>(key[8]) == KeyTag::kEntry) return names_hash(inode, number);
    if (static_cast<KeyTag>(key[8]) == KeyTag::kWindow) return window_hash(inode, WindowId{number});
  }
  return head_hash(inode);
}

Bytes encode(const StoredInode& inode) {
  RecordWriter record;
  record.inode_put(inode.image);
  const auto body = record.bytes().subspan(kChangeHeaderBytes);
  Bytes out{body.begin(), body.end()};
  ByteWriter writer(out);
  writer.put(inode.data_blocks);
  writer.put(inode.reserved_blocks);
  writer.put(inode.names);
  return out;
}

Result<StoredInode> decode_stored_inode(std::span<const std::byte> value) {
  constexpr std::size_t kCountsBytes = 3 * 8;
  if (value.size() < kCountsBytes) return Code::kFormatInvalid;
  StoredInode inode;
  inode.image = TRY(decode_inode(value.first(value.size() - kCountsBytes)));
  ByteReader in(value.last(kCountsBytes));
  inode.data_blocks = in.get<std::uint64_t>();
  inode.reserved_blocks = in.get<std::uint64_t>();
  inode.names = in.get<std::uint64_t>();
  return inode;
}

Bytes encode_entry(const Entry& entry) {
  Bytes value;
  ByteWriter out(value);
  out.put(entry.inode);
  out.put(entry.type_bits);
  out.put_bytes(as_bytes(entry.name));
  return value;
}

Result<Entry> decode_entry(std::span<const std::byte> value) {
  ByteReader in(value);
  Entry entry;
  entry.inode = in.get<InodeId>();
  entry.type_bits = in.get<std::uint32_t>();
  entry.name = std::string{as_text(in.get_bytes(in.left()))};
  if (!in.ok() || entry.inode.raw == 0 || !name_is_valid(entry.name)) return Code::kFormatInvalid;
  return entry;
}

Bytes encode(const PoolState& state) {
  Bytes value;
  ByteWriter out(value);
  out.put(state.inode_limit);
  out.put(state.inodes);
  out.put(state.reserved_blocks);
  out.put(state.next_chunk);
  return value;
}

Result<PoolState> decode_pool_state(std::span<const std::byte> value) {
  ByteReader in(value);
  PoolState state;
  state.inode_limit = in.get<std::uint64_t>();
  state.inodes = in.get<std::uint64_t>();
  state.reserved_blocks = in.get<std::uint64_t>();
  state.next_chunk = in.get<std::uint32_t>();
  if (!in.ok() || !in.at_end()) return Code::kFormatInvalid;
  return state;
}

Result<Key> parse_key(std::span<const std::byte> key) {
  if (key.size() < 9) return Code::kFormatInvalid;
  return Key{.inode = InodeId{from_big_endian<std::uint64_t>(key.first(8))},
             .tag = static_cast<KeyTag>(key[8]),
             .rest = key.subspan(9)};
}

}  // namespace dynamicfs::fs
