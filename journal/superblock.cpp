#include "journal/superblock.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>

#include "base/crc32c.hpp"

namespace dynamicfs::journal {
namespace {

constexpr std::string_view kSuperblockMagic{"dynfs-sb"};

constexpr std::string_view kSingleWholeFiles{"single,placement=file"};
constexpr std::string_view kReplicaPrefix{"replica:"};
constexpr std::string_view kErasurePrefix{"ec:"};

constexpr std::size_t kSuperblockCrcOffset = 8;
constexpr std::uint8_t kFlagClean = 1;
constexpr std::uint8_t kFlagAnnounced = 2;
constexpr std::uint8_t kFlagRebalancing = 4;
constexpr std::uint8_t kFlagReencoding = 8;
constexpr std::uint8_t kFlagWholeFiles = 16;
constexpr std::uint8_t kFlagsAll =
    kFlagClean | kFlagAnnounced | kFlagRebalancing | kFlagReencoding | kFlagWholeFiles;
constexpr std::uint8_t kDiskLeaving = 1;
constexpr std::uint8_t kDiskLost = 2;
constexpr std::uint8_t kDiskSpare = 4;
constexpr std::size_t kFixedBytes = 192;
constexpr std::size_t kEpochBytes = 32;
constexpr std::size_t kDiskFixedBytes = 60;
constexpr std::size_t kRunFixedBytes = 34;
static_assert(kEpochsMax * kEpochBytes <= kSuperblockBytes / 2,
              "the epoch history must leave room for disks and runs");

// Sizes of the rows in man/format.md, "Superblock".
static_assert(8 + 4 + 4 + 4 + 4 + 16 + 8 + 8 + 2 + 1 + 1 + 1 + 1 + 2 + 2 + 2 + 2 + 2 + 8 + 8 + 8 +
                      8 + 8 + 8 + 4 + 2 + 66 ==
                  kFixedBytes,
              "the fixed part has rows that man/format.md does not know, or the reverse");

std::optional<unsigned> parse_number(std::string_view text) {
  unsigned value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool possible(const RunRef& run, const Superblock& superblock) {
  if (run.id == 0 || run.id >= superblock.manifest.next_run) return false;
  // Bounded before anything is added, so that nothing wraps around.
  if (run.bytes >= std::uint64_t{1} << 60 || run.bytes % kRunBlockBytes != 0) return false;
  if (run.entry_blocks == 0 || run.index_blocks == 0) return false;
  if (run.entry_blocks > run.blocks() || run.index_blocks > run.blocks() - run.entry_blocks) {
    return false;
  }
  for (const RunCopy& copy : run.copies) {
    const DiskRecord* const disk = superblock.find(copy.disk);
    if (disk == nullptr) return false;
    if (copy.slots.size() != ceil_div(run.bytes, kSlotBytes)) return false;
    if (std::ranges::any_of(copy.slots, [&](SlotId slot) { return slot.raw >= disk->slots; })) {
      return false;
    }
  }
  return !run.copies.empty();
}

// What a forged or miswritten superblock could break if it were believed.
bool possible(const Superblock& superblock) {
  if (superblock.disks.empty() || superblock.disks.size() > kDisksMax) return false;
  if (superblock.members.empty() || superblock.members.size() > kMembersMax) return false;
  if (superblock.epochs.empty()) return false;
  const Policy& policy = superblock.policy;
  if (policy.copies_or_data == 0 || policy.width() > kDisksMax) return false;
  if ((policy.kind == Policy::Kind::kErasure) != (policy.parity != 0)) return false;
  if (policy.parity != 0 && policy.width() > kColumnsMax) return false;
  if (superblock.tolerance_min >= kDisksMax) return false;
  if (superblock.find(superblock.this_disk) == nullptr) return false;

  for (std::size_t i = 0; i < superblock.disks.size(); ++i) {
    const DiskRecord& disk = superblock.disks[i];
    for (std::size_t k = 0; k < i; ++k) {
      if (superblock.disks[k].id == disk.id) return false;
    }
    if (disk.id.raw >= kDiskIdsMax) return false;
    if (disk.state != DiskState::kActive && disk.state != DiskState::kAway) return false;
    // Sizes are bounded before they are added, so that nothing wraps around.
    const std::uint64_t size = disk.size_bytes;
    if (size >= std::uint64_t{1} << 60 || disk.journal_bytes > size) return false;
    if (disk.first_slot_offset > size || disk.first_slot_offset % kSlotBytes != 0) return false;
    if (kJournalOffset + disk.journal_bytes > disk.first_slot_offset) return false;
    if (disk.first_slot_offset + std::uint64_t{disk.slots} * kSlotBytes > size) return false;
  }
  if (superblock.log_bytes < kBlockBytes || superblock.log_bytes % kBlockBytes != 0) return false;
  for (const DiskId member : superblock.members) {
    const DiskRecord* const disk = superblock.find(member);
    if (disk == nullptr || disk->journal_bytes < superblock.log_bytes) return false;
    if (std::ranges::count(superblock.members, member) != 1) return false;
  }
  for (std::size_t i = 1; i < superblock.epochs.size(); ++i) {
    const EpochRecord& before = superblock.epochs[i - 1];
    const EpochRecord& epoch = superblock.epochs[i];
    if (epoch.number <= before.number || epoch.first_sequence < before.first_sequence) return false;
  }
  const Manifest& manifest = superblock.manifest;
  if (manifest.log_start.offset > superblock.log_bytes) return false;
  if (manifest.log_start.offset % kBlockBytes != 0 || manifest.log_start.sequence.raw == 0)
    return false;
  for (std::size_t i = 0; i < manifest.runs.size(); ++i) {
    if (!possible(manifest.runs[i], superblock)) return false;
    for (std::size_t k = 0; k < i; ++k) {
      if (manifest.runs[k].id == manifest.runs[i].id) return false;
    }
  }
  return manifest.runs.size() <= kRunsMax;
}

void put_disk(ByteWriter& out, const DiskRecord& disk) {
  out.put(disk.id);
  out.put(static_cast<std::uint8_t>(disk.state));
  out.put(static_cast<std::uint8_t>((disk.leaving ? kDiskLeaving : 0) |
                                    (disk.lost ? kDiskLost : 0) | (disk.spare ? kDiskSpare : 0)));
  out.put_bytes(disk.uuid.span());
  out.put(disk.size_bytes);
  out.put(disk.journal_bytes);
  out.put(disk.first_slot_offset);
  out.put(disk.slots);
  out.put(disk.stale_since);
  out.put(std::uint16_t{0});
  out.put_sized<std::uint16_t>(disk.path);
}
static_assert(2 + 1 + 1 + 16 + 8 + 8 + 8 + 4 + 8 + 2 + 2 == kDiskFixedBytes);

void put_run(ByteWriter& out, const RunRef& run) {
  out.put(run.id);
  out.put(run.bytes);
  out.put(run.entry_blocks);
  out.put(run.index_blocks);
  out.put(static_cast<std::uint16_t>(run.copies.size()));
  for (const RunCopy& copy : run.copies) {
    out.put(copy.disk);
    out.put(static_cast<std::uint32_t>(copy.slots.size()));
    for (const SlotId slot : copy.slots) out.put(slot);
  }
}
static_assert(8 + 8 + 8 + 8 + 2 == kRunFixedBytes);

// False: the counts promise more than there is.
bool get_run(ByteReader& in, RunRef& run) {
  run.id = in.get<std::uint64_t>();
  run.bytes = in.get<std::uint64_t>();
  run.entry_blocks = in.get<std::uint64_t>();
  run.index_blocks = in.get<std::uint64_t>();
  const auto copies = in.get<std::uint16_t>();
  for (unsigned i = 0; i < copies && in.ok(); ++i) {
    RunCopy& copy = run.copies.emplace_back();
    copy.disk = in.get<DiskId>();
    const auto slots = in.get<std::uint32_t>();
    if (slots > in.left() / sizeof(SlotId::Raw)) return false;
    copy.slots.reserve(slots);
    for (std::uint32_t k = 0; k < slots; ++k) copy.slots.push_back(in.get<SlotId>());
  }
  return in.ok();
}

Uuid get_uuid(ByteReader& in) {
  Uuid uuid;
  const auto bytes = in.get_bytes(uuid.bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i)
    uuid.bytes[i] = static_cast<std::uint8_t>(bytes[i]);
  return uuid;
}

bool get_zeros(ByteReader& in, std::size_t size) {
  return std::ranges::all_of(in.get_bytes(size), [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

std::string Policy::text() const {
  if (kind == Kind::kErasure) return fmt::format("ec:{}+{}", copies_or_data, parity);
  if (whole_files) return std::string{kSingleWholeFiles};
  return copies_or_data == 1 ? "single" : fmt::format("replica:{}", copies_or_data);
}

std::optional<Policy> Policy::from_disk(std::uint8_t kind, std::uint8_t copies_or_data,
                                        std::uint8_t parity) {
  Policy policy{.copies_or_data = copies_or_data, .parity = parity};
  if (kind == kWholeFilesOnDisk) {
    policy.whole_files = true;
    if (copies_or_data != 1) return std::nullopt;
  } else if (kind == static_cast<std::uint8_t>(Kind::kErasure)) {
    policy.kind = Kind::kErasure;
  } else if (kind != static_cast<std::uint8_t>(Kind::kReplica)) {
    return std::nullopt;
  }
  if (copies_or_data == 0 || (policy.kind == Kind::kErasure) != (parity != 0)) return std::nullopt;
  return policy;
}

std::optional<Policy> Policy::parse(std::string_view text) {
  if (text == "single") return Policy{};
  if (text == kSingleWholeFiles) return Policy{.whole_files = true};
  if (text.starts_with(kReplicaPrefix)) {
    const auto copies = parse_number(text.substr(kReplicaPrefix.size()));
    if (!copies || *copies < 1 || *copies > kDisksMax) return std::nullopt;
    return Policy{.kind = Kind::kReplica, .copies_or_data = static_cast<std::uint8_t>(*copies)};
  }
  if (text.starts_with(kErasurePrefix)) {
    const std::string_view numbers = text.substr(kErasurePrefix.size());
    const std::size_t plus = numbers.find('+');
    if (plus == std::string_view::npos) return std::nullopt;
    const auto data = parse_number(numbers.substr(0, plus));
    const auto parity = parse_number(numbers.substr(plus + 1));
    if (!data || !parity || *data < 1 || *parity < 1) return std::nullopt;
    if (*data > kColumnsMax || *parity > kColumnsMax || *data + *parity > kColumnsMax)
      return std::nullopt;
    return Policy{.kind = Kind::kErasure,
                  .copies_or_data = static_cast<std::uint8_t>(*data),
                  .parity = static_cast<std::uint8_t>(*parity)};
  }
  return std::nullopt;
}

const DiskRecord* Superblock::find(DiskId id) const {
  const auto it = std::ranges::find(disks, id, &DiskRecord::id);
  return it == disks.end() ? nullptr : &*it;
}

DiskRecord* Superblock::find(DiskId id) {
  const auto it = std::ranges::find(disks, id, &DiskRecord::id);
  return it == disks.end() ? nullptr : &*it;
}

const EpochRecord* Superblock::epoch_of(BatchSequence batch) const {
  const EpochRecord* found = nullptr;
  // Several epochs may begin with one sequence, when disks failed in a row: the last one counts.
  for (const EpochRecord& epoch : epochs) {
    if (epoch.first_sequence <= batch) found = &epoch;
  }
  return found;
}

Result<Bytes> encode(const Superblock& superblock) {
  Bytes bytes;
  ByteWriter out{bytes};
  out.put_bytes(as_bytes(kSuperblockMagic));
  out.put(std::uint32_t{0});  // the checksum, and then the size, are filled in below
  out.put(std::uint32_t{0});
  out.put(superblock.reader_min);
  out.put(superblock.writer_min);
  out.put_bytes(superblock.pool.span());
  out.put(superblock.sequence);
  out.put(superblock.created_unix_s);
  out.put(superblock.this_disk);
  out.put(static_cast<std::uint8_t>((superblock.clean ? kFlagClean : 0) |
                                    (superblock.announced ? kFlagAnnounced : 0) |
                                    (superblock.rebalancing ? kFlagRebalancing : 0) |
                                    (superblock.reencoding ? kFlagReencoding : 0) |
                                    (superblock.whole_files ? kFlagWholeFiles : 0)));
  out.put(superblock.policy.kind_on_disk());
  out.put(superblock.policy.copies_or_data);
  out.put(superblock.policy.parity);
  out.put(static_cast<std::uint16_t>(superblock.label.size()));
  out.put(static_cast<std::uint16_t>(superblock.epochs.size()));
  out.put(static_cast<std::uint16_t>(superblock.members.size()));
  out.put(static_cast<std::uint16_t>(superblock.disks.size()));
  out.put(static_cast<std::uint16_t>(superblock.manifest.runs.size()));
  out.put(superblock.log_bytes);
  out.put(superblock.lsn_floor);
  out.put(superblock.manifest.next_run);
  out.put(superblock.manifest.lsn);
  out.put(superblock.manifest.log_start.sequence);
  out.put(superblock.manifest.log_start.offset);
  out.put(superblock.manifest.log_start.previous_crc);
  out.put(superblock.next_disk);
  out.put(superblock.tolerance_min);
  out.put(std::uint8_t{0});
  out.put(superblock.scrub.next);
  out.put(superblock.scrub.ended_unix_s);
  bytes.resize(kFixedBytes);

  out.put_bytes(as_bytes(superblock.label));
  for (const EpochRecord& epoch : superblock.epochs) {
    out.put(epoch.number);
    out.put(epoch.tag);
    out.put(epoch.first_sequence);
    out.put(epoch.after);
  }
  for (const DiskId member : superblock.members) out.put(member);
  for (const DiskRecord& disk : superblock.disks) {
    if (disk.path.size() > kPathBytesMax) return Code::kFormatInvalid;
    put_disk(out, disk);
  }
  for (const RunRef& run : superblock.manifest.runs) put_run(out, run);

  bytes.resize(align_up(bytes.size(), kBlockBytes));
  if (bytes.size() > kSuperblockBytes || superblock.label.size() > kBlockBytes ||
      superblock.manifest.runs.size() > kRunsMax) {
    return error(Code::kFormatInvalid, bytes.size());
  }
  store(bytes.data() + kSuperblockCrcOffset + 4, static_cast<std::uint32_t>(bytes.size()));
  store(bytes.data() + kSuperblockCrcOffset,
        crc32c(std::span<const std::byte>{bytes}.subspan(kSuperblockCrcOffset + 4)));
  return bytes;
}

Result<Superblock> decode(std::span<const std::byte> bytes) {
  if (bytes.size() < kBlockBytes ||
      as_text(bytes.first(kSuperblockMagic.size())) != kSuperblockMagic) {
    return Code::kFormatMagic;
  }
  const auto size_bytes = load<std::uint32_t>(bytes.data() + kSuperblockCrcOffset + 4);
  if (size_bytes < kBlockBytes || size_bytes > bytes.size() || size_bytes % kBlockBytes != 0) {
    return Code::kChecksum;
  }
  const auto covered = bytes.first(size_bytes).subspan(kSuperblockCrcOffset + 4);
  if (crc32c(covered) != load<std::uint32_t>(bytes.data() + kSuperblockCrcOffset))
    return Code::kChecksum;

  ByteReader in{covered};
  in.get<std::uint32_t>();  // the size
  Superblock superblock;
  superblock.reader_min = in.get<std::uint32_t>();
  superblock.writer_min = in.get<std::uint32_t>();
  // Everything up to here keeps its place in every version; what follows may not.
  if (superblock.reader_min < kFormatVersionOldest || superblock.reader_min > kFormatVersion) {
    return error(Code::kFormatVersion, superblock.reader_min);
  }
  superblock.pool = get_uuid(in);
  superblock.sequence = in.get<std::uint64_t>();
  superblock.created_unix_s = in.get<std::uint64_t>();
  superblock.this_disk = in.get<DiskId>();
  const auto flags = in.get<std::uint8_t>();
  superblock.clean = (flags & kFlagClean) != 0;
  superblock.announced = (flags & kFlagAnnounced) != 0;
  superblock.rebalancing = (flags & kFlagRebalancing) != 0;
  superblock.reencoding = (flags & kFlagReencoding) != 0;
  superblock.whole_files = (flags & kFlagWholeFiles) != 0;
  const auto kind = in.get<std::uint8_t>();
  const auto copies_or_data = in.get<std::uint8_t>();
  const auto parity = in.get<std::uint8_t>();
  const std::optional<Policy> policy = Policy::from_disk(kind, copies_or_data, parity);
  superblock.policy = policy.value_or(Policy{});
  const auto label_bytes = in.get<std::uint16_t>();
  const auto epochs = in.get<std::uint16_t>();
  const auto members = in.get<std::uint16_t>();
  const auto disks = in.get<std::uint16_t>();
  const auto runs = in.get<std::uint16_t>();
  superblock.log_bytes = in.get<std::uint64_t>();
  superblock.lsn_floor = in.get<Lsn>();
  superblock.manifest.next_run = in.get<std::uint64_t>();
  superblock.manifest.lsn = in.get<Lsn>();
  superblock.manifest.log_start.sequence = in.get<BatchSequence>();
  superblock.manifest.log_start.offset = in.get<std::uint64_t>();
  superblock.manifest.log_start.previous_crc = in.get<std::uint32_t>();
  superblock.next_disk = in.get<DiskId>();
  superblock.tolerance_min = in.get<std::uint8_t>();
  bool zeros = get_zeros(in, 1);
  superblock.scrub.next = in.get<InodeId>();
  superblock.scrub.ended_unix_s = in.get<std::uint64_t>();
  zeros =
      zeros && get_zeros(in, kFixedBytes - (kSuperblockCrcOffset + 4 + covered.size() - in.left()));

  superblock.label = std::string{as_text(in.get_bytes(label_bytes))};
  for (unsigned i = 0; i < epochs && in.ok(); ++i) {
    EpochRecord& epoch = superblock.epochs.emplace_back();
    epoch.number = in.get<Epoch>();
    epoch.tag = in.get<std::uint64_t>();
    epoch.first_sequence = in.get<BatchSequence>();
    epoch.after = in.get<Lsn>();
  }
  for (unsigned i = 0; i < members && in.ok(); ++i) superblock.members.push_back(in.get<DiskId>());
  for (unsigned i = 0; i < disks && in.ok(); ++i) {
    DiskRecord& disk = superblock.disks.emplace_back();
    disk.id = in.get<DiskId>();
    disk.state = static_cast<DiskState>(in.get<std::uint8_t>());
    const auto disk_flags = in.get<std::uint8_t>();
    disk.leaving = (disk_flags & kDiskLeaving) != 0;
    disk.lost = (disk_flags & kDiskLost) != 0;
    disk.spare = (disk_flags & kDiskSpare) != 0;
    zeros = (disk_flags & ~(kDiskLeaving | kDiskLost | kDiskSpare)) == 0 && zeros;
    zeros = (disk.leaving || !disk.spare) && zeros;
    disk.uuid = get_uuid(in);
    disk.size_bytes = in.get<std::uint64_t>();
    disk.journal_bytes = in.get<std::uint64_t>();
    disk.first_slot_offset = in.get<std::uint64_t>();
    disk.slots = in.get<std::uint32_t>();
    disk.stale_since = in.get<Lsn>();
    zeros = get_zeros(in, 2) && zeros;
    disk.path = in.get_text<std::uint16_t>();
    // Before version 5 no disk was ever removed.
    if (disk.id >= superblock.next_disk)
      superblock.next_disk = DiskId{static_cast<std::uint16_t>(disk.id.raw + 1)};
  }
  for (unsigned i = 0; i < runs && in.ok(); ++i) {
    if (!get_run(in, superblock.manifest.runs.emplace_back())) return Code::kFormatInvalid;
  }
  zeros = get_zeros(in, in.left()) && zeros;

  zeros = zeros && (flags & ~kFlagsAll) == 0;
  // A newer program that lets us read may have given a meaning to what is reserved.
  if (superblock.writer_min > kFormatVersion) zeros = true;
  if (!in.ok() || !zeros || !policy || !possible(superblock)) {
    return Code::kFormatInvalid;
  }
  return superblock;
}

}  // namespace dynamicfs::journal
