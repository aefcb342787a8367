#include "fs/change_text.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include "base/log.hpp"
#include "extent/extent_format.hpp"
#include "fs/change_format.hpp"

namespace dynamicfs::fs {
namespace {

// Bytes of a name or value as text on one line.
std::string in_quotes(std::string_view text) {
  constexpr std::size_t kLongest = 255;
  std::string out = "\"";
  for (const char c : text.substr(0, kLongest)) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + (text.size() > kLongest ? "\"..." : "\"");
}

std::string time_text(std::int64_t ns) {
  return fmt::format("{}.{:09}", ns / 1'000'000'000, ns % 1'000'000'000);
}

std::string inode_text(const InodeImage& inode) {
  std::string out = fmt::format("mode {:06o}, {} links, owner {}:{}, {} bytes, mtime {}, ctime {}",
                                inode.mode, inode.nlink, inode.uid, inode.gid, inode.size_bytes,
                                time_text(inode.mtime_ns), time_text(inode.ctime_ns));
  if (inode.rdev != 0) out += fmt::format(", device {:#x}", inode.rdev);
  if (inode.flags != 0) out += fmt::format(", flags {:#x}", inode.flags);
  if (inode.parent.raw != 0) out += fmt::format(", in directory {}", inode.parent);
  return out;
}

std::string range_text(FileBlock first, std::uint64_t count) {
  return fmt::format("blocks {} to {}", first, first.raw + count - 1);
}

std::string chunk_text(const extent::ChunkPut& chunk) {
  std::string out = fmt::format("chunk {}, {}:", chunk.chunk, chunk.layout.text());
  for (const extent::Place& place : chunk.places)
    out += fmt::format(" disk {} slot {}", place.disk, place.slot);
  return out;
}

std::string extent_text(const extent::ExtentPut& put) {
  std::string out =
      fmt::format("inode {}: {} in", put.inode, range_text(put.first, put.crcs.size()));
  for (const extent::Piece& piece : put.pieces)
    out += fmt::format(" chunk {} blocks {} to {}", piece.chunk, piece.block,
                       piece.block + piece.count - 1);
  return out;
}

Result<std::string> extent_change_text(extent::ChangeType type, std::span<const std::byte> body) {
  switch (type) {
    case extent::ChangeType::kExtentPut: return extent_text(TRY(extent::decode_extent_put(body)));
    case extent::ChangeType::kExtentClear: {
      const auto change = TRY(extent::decode_extent_clear(body));
      return fmt::format("inode {}: a hole from block {}, {} blocks", change.inode, change.first,
                         change.count);
    }
    case extent::ChangeType::kExtentReserve: {
      const auto change = TRY(extent::decode_extent_reserve(body));
      return fmt::format("inode {}: {} reserved", change.inode,
                         range_text(change.first, change.count));
    }
    case extent::ChangeType::kChunkPut: return chunk_text(TRY(extent::decode_chunk_put(body)));
    case extent::ChangeType::kChunkRemove:
      return fmt::format("chunk {} removed", TRY(extent::decode_chunk_remove(body)).chunk);
    case extent::ChangeType::kExtentShare:
      return extent_text(TRY(extent::decode_extent_put(body))) + ", shared";
  }
  return Code::kFormatVersion;
}

Result<std::string> change_text(std::uint8_t type, std::span<const std::byte> body) {
  switch (static_cast<ChangeType>(type)) {
    case ChangeType::kInodePut: {
      const InodeImage inode = TRY(decode_inode(body));
      return fmt::format("inode {}: {}", inode.inode, inode_text(inode));
    }
    case ChangeType::kInodeRemove:
      return fmt::format("inode {} removed, with all it has", TRY(decode_inode_id(body)));
    case ChangeType::kEntryPut: {
      const EntryChange change = TRY(decode_entry_put(body));
      return fmt::format("directory {}: {} is inode {}, cookie {}", change.directory,
                         in_quotes(change.name), change.inode, change.cookie);
    }
    case ChangeType::kEntryRemove: {
      const EntryChange change = TRY(decode_entry_remove(body));
      return fmt::format("directory {}: the name with cookie {} removed", change.directory,
                         change.cookie);
    }
    case ChangeType::kXattrPut: {
      const XattrChange change = TRY(decode_xattr_put(body));
      return fmt::format("inode {}: attribute {} = {}", change.inode, in_quotes(change.name),
                         in_quotes(change.value));
    }
    case ChangeType::kXattrRemove: {
      const XattrChange change = TRY(decode_xattr_remove(body));
      return fmt::format("inode {}: attribute {} removed", change.inode, in_quotes(change.name));
    }
    case ChangeType::kSymlinkPut: {
      const XattrChange change = TRY(decode_symlink_put(body));
      return fmt::format("inode {}: leads to {}", change.inode, in_quotes(change.value));
    }
    case ChangeType::kInodeLimit:
      return fmt::format("inode numbers below {} may be given", TRY(decode_inode_id(body)));
  }
  return extent_change_text(static_cast<extent::ChangeType>(type), body);
}

// A window of a file: one line for each extent.
std::string window_text(InodeId inode, std::uint64_t window, std::span<const std::byte> value) {
  journal::Eras eras;
  extent::MapContext memory{eras};
  extent::FileMap map{memory};
  const Result<void> loaded = map.load_window(WindowId{window}, value);
  if (!loaded.has_value())
    return fmt::format("inode {} window {}: {}\n", inode, window, describe(loaded.error()));
  std::string out;
  map.for_each([&](const extent::Mapping& mapping) {
    out += fmt::format("inode {}: {}", inode, range_text(mapping.first, mapping.count));
    if (mapping.kind == extent::MappingKind::kReserved) {
      out += " reserved\n";
    } else {
      out += fmt::format(" in chunk {} blocks {} to {}, generation {}\n", mapping.chunk,
                         mapping.block, mapping.block + mapping.count - 1, mapping.generation);
    }
  });
  return out;
}

Result<std::string> entry_text(std::span<const std::byte> key_bytes,
                               std::span<const std::byte> value) {
  const Key key = TRY(parse_key(key_bytes));
  if (key.inode.raw == 0) {
    switch (key.tag) {
      case KeyTag::kPoolState: {
        const PoolState state = TRY(decode_pool_state(value));
        return fmt::format(
            "pool: {} inodes, numbers below {} may be given, {} blocks reserved, next chunk {}\n",
            state.inodes, state.inode_limit, state.reserved_blocks, state.next_chunk);
      }
      case KeyTag::kPoolChunk: {
        const extent::ChunkState chunk = TRY(extent::decode_chunk_state(value));
        std::string out =
            fmt::format("{}, {} blocks in use\n", chunk_text(chunk.put), chunk.live.count());
        for (const extent::SharedRun& run : chunk.shared.runs()) {
          out += fmt::format("chunk {}: blocks {} to {} have {} references\n", chunk.put.chunk,
                             run.block, run.block + run.count - 1, run.references);
        }
        return out;
      }
      case KeyTag::kPoolOrphan:
        if (key.rest.size() != 8) return Code::kFormatInvalid;
        return fmt::format("inode {}: removed while open\n",
                           from_big_endian<std::uint64_t>(key.rest));
      default: return Code::kFormatInvalid;
    }
  }
  switch (key.tag) {
    case KeyTag::kInode: {
      const StoredInode inode = TRY(decode_stored_inode(value));
      return fmt::format("inode {}: {}, {} blocks, {} reserved, {} names\n", key.inode,
                         inode_text(inode.image), inode.data_blocks, inode.reserved_blocks,
                         inode.names);
    }
    case KeyTag::kSymlink:
      return fmt::format("inode {}: leads to {}\n", key.inode, in_quotes(as_text(value)));
    case KeyTag::kXattr: {
      if (key.rest.size() < 4) return Code::kFormatInvalid;
      return fmt::format("inode {}: attribute {} = {}\n", key.inode,
                         in_quotes(as_text(key.rest.first(key.rest.size() - 3))),
                         in_quotes(as_text(value)));
    }
    case KeyTag::kEntry: {
      const Entry entry = TRY(decode_entry(value));
      if (key.rest.size() != 8) return Code::kFormatInvalid;
      return fmt::format("directory {}: {} is inode {}, cookie {}\n", key.inode,
                         in_quotes(entry.name), entry.inode,
                         from_big_endian<std::uint64_t>(key.rest));
    }
    case KeyTag::kWindow:
      if (key.rest.size() != 8) return Code::kFormatInvalid;
      return window_text(key.inode, from_big_endian<std::uint64_t>(key.rest), value);
  }
  return Code::kFormatInvalid;
}

}  // namespace

std::string record_text(std::span<const std::byte> record, std::string_view indent) {
  std::string out;
  const Result<void> read =
      for_each_change(record, [&](std::uint8_t type, std::span<const std::byte> body) {
        const Result<std::string> text = change_text(type, body);
        out += fmt::format("{}{}\n", indent,
                           text.has_value()
                               ? *text
                               : fmt::format("a change of type {} that cannot be read ({})", type,
                                             describe(text.error())));
        return Result<void>{};
      });
  if (!read.has_value()) out += fmt::format("{}{}\n", indent, describe(read.error()));
  return out;
}

std::string run_entry_text(journal::RunEntryKind kind, std::span<const std::byte> key,
                           std::span<const std::byte> value) {
  if (kind != journal::RunEntryKind::kValue) {
    std::string hex;
    for (const std::byte byte : key) hex += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
    return fmt::format("{} in older runs {} {}\n",
                       kind == journal::RunEntryKind::kDeletion ? "deleted" : "all deleted",
                       kind == journal::RunEntryKind::kDeletion ? "is" : "that begins with", hex);
  }
  const Result<std::string> text = entry_text(key, value);
  return text.has_value() ? *text
                          : fmt::format("an entry of {} bytes that cannot be read ({})\n",
                                        value.size(), describe(text.error()));
}

}  // namespace dynamicfs::fs
