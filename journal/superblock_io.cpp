#include "journal/superblock_io.hpp"

#include <array>
#include <memory>
#include <optional>

#include "base/buffer.hpp"
#include "journal/pool.hpp"

namespace dynamicfs::journal {
namespace {

// Of two reasons why a copy cannot be used, the one the user should hear: a newer format outweighs
// damage, and damage outweighs "not ours", since the other copy may never have been written.
Error weightier(Error a, Error b) {
  for (const Code code : {Code::kFormatVersion, Code::kFormatInvalid, Code::kChecksum}) {
    if (a.code == code) return a;
    if (b.code == code) return b;
  }
  return a.code == Code::kFormatMagic ? b : a;
}

}  // namespace

Task<Result<FoundSuperblock>> find_superblock(scheduler::Disk& disk) {
  if (disk.size_bytes() < kSuperblockCopies * kSuperblockBytes) co_return Code::kFormatMagic;
  // A disk that is given up in the middle may still write to it.
  const auto buffer = std::make_shared<Buffer>(kSuperblockCopies * kSuperblockBytes);
  scheduler::IoGroup group;
  for (unsigned copy = 0; copy < kSuperblockCopies; ++copy) {
    group.read(disk, scheduler::IoClass::kCritical, superblock_offset(copy),
               buffer->span().subspan(superblock_offset(copy), kSuperblockBytes), buffer);
  }
  co_await group.run();

  std::optional<FoundSuperblock> newest;
  std::optional<Error> why;
  for (unsigned copy = 0; copy < kSuperblockCopies; ++copy) {
    Error failure = group.error(copy);
    if (failure.code == Code::kOk) {
      Result<Superblock> decoded = decode(std::span<const std::byte>{buffer->span()}.subspan(
          superblock_offset(copy), kSuperblockBytes));
      if (decoded.has_value()) {
        if (!newest || decoded->sequence > newest->superblock.sequence) {
          newest = FoundSuperblock{std::move(decoded).value(), copy};
        }
        continue;
      }
      failure = decoded.error();
    }
    why = why ? weightier(*why, failure) : failure;
  }
  // A whole copy beside one of a newer format: the newer program was here last.
  if (newest && !(why && why->code == Code::kFormatVersion)) co_return std::move(*newest);
  co_return *why;
}

Task<Result<Superblock>> read_superblock(scheduler::Disk& disk) {
  CO_TRY_ASSIGN(FoundSuperblock found, co_await find_superblock(disk));
  co_return std::move(found.superblock);
}

}  // namespace dynamicfs::journal
