#include "fs/change_format.hpp"

#include "fs/filesystem.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::size_t kEntryFixedBytes = 8 + 8 + 8 + 4 + 2;

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

Result<Key> parse_key(std::span<const std::byte> key) {
  if (key.size() < 9) return Code::kFormatInvalid;
  return Key{.inode = InodeId{from_big_endian<std::uint64_t>(key.first(8))},
             .tag = static_cast<KeyTag>(key[8]),
             .rest = key.subspan(9)};
}

}  // namespace dynamicfs::fs
