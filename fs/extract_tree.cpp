#include "fs/extract_tree.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/blocking.hpp"
#include "base/log.hpp"
#include "base/waiters.hpp"
#include "fs/directory.hpp"

namespace dynamicfs::fs {
namespace {

constexpr std::size_t kNamesAtOnce = 512;
// Of one file at the same time: enough for several disks to stream.
constexpr std::uint64_t kWindowsAtOnce = 8;
constexpr const char* kNamelessDirectory = "dynamicfs-nameless";

std::string why_lost(const Error& error) {
  switch (error.code) {
    case Code::kDiskGone: return "it is on disks that are not here";
    case Code::kCorrupt: return "no good copy of it is left";
    case Code::kStale: return "what it is has been lost with other metadata";
    case Code::kFormatInvalid: return "the metadata that leads to it is lost";
    case Code::kSystem: return std::strerror(error.sys_errno);
    default: return describe(error);
  }
}

Task<std::vector<Result<ReadReply>>> read_windows(Filesystem* filesystem, InodeId id,
                                                  std::uint64_t from, std::uint64_t to) {
  std::vector<Task<Result<ReadReply>>> reads;
  while (from < to) {
    const std::uint64_t end = std::min(to, align_down(from, kWindowBytes) + kWindowBytes);
    reads.push_back(filesystem->read(id, from, end - from, false));
    from = end;
  }
  co_return co_await when_all(std::move(reads));
}

void add_range(ExtractLoss& loss, std::uint64_t from, std::uint64_t to, const std::string& why) {
  if (from >= to) return;
  if (loss.why.empty()) loss.why = why;
  if (!loss.ranges.empty() && loss.ranges.back().second == from) {
    loss.ranges.back().second = to;
  } else {
    loss.ranges.emplace_back(from, to);
  }
}

struct Listed {
  std::vector<ExtractTree::Name> names;
  std::uint64_t cookie = 0;
  bool end = true;
};

Task<Result<Listed>> list_names(Filesystem* filesystem, InodeId directory, std::uint64_t cookie) {
  Listed listed;
  listed.cookie = cookie;
  const DirectorySink sink = [&listed](const DirectoryEntry& entry) {
    if (listed.names.size() == kNamesAtOnce) {
      listed.end = false;
      return false;
    }
    listed.cookie = entry.next_cookie;
    const bool itself = entry.next_cookie <= kCookieDotDot;
    if (!itself) listed.names.push_back({std::string{entry.name}, entry.inode, entry.type_bits});
    return true;
  };
  CO_TRY(co_await filesystem->readdir(directory, cookie, false, sink, false));
  co_return listed;
}

}  // namespace

ExtractTree::ExtractTree(Executor& executor, Filesystem& filesystem, ExtractTarget* target,
                         const std::vector<std::string>& only, Events events)
    : executor_(executor),
      fs_(filesystem),
      target_(target),
      everything_(only.empty()),
      events_(std::move(events)) {
  for (const std::string& path : only) {
    Only* at = &only_;
    for (std::size_t from = 0; from < path.size();) {
      const std::size_t to = std::min(path.find('/', from), path.size());
      const std::string name = path.substr(from, to - from);
      if (!name.empty() && name != ".") at = &at->children[name];
      from = to + 1;
    }
    at->all = true;
  }
}

template <class T>
T ExtractTree::wait(Task<T> task) {
  return block_on(executor_, std::move(task));
}

int ExtractTree::fd_of(const Frame& frame) const {
  if (target_ == nullptr) return -1;
  return frame.fd ? frame.fd.get() : target_->root();
}

Result<void> ExtractTree::run() {
  const Result<Attributes> root = wait(fs_.getattr(kRootInode));
  Frame frame;
  frame.id = kRootInode;
  frame.only = everything_ || only_.all ? nullptr : &only_;
  meet(kRootInode);
  if (root.has_value() && S_ISDIR(root->mode)) {
    frame.attributes = *root;
    ++counts_.directories;
  } else {
    path_ = "/";
    tell_missing(fmt::format("the root directory cannot be read: {}",
                             root.has_value() ? "it is none" : why_lost(root.error())));
    path_.clear();
    frame.id = {};
    frame.listed = true;
  }
  frames_.push_back(std::move(frame));
  TRY(walk(1));
  // Also if nothing seems to be lost: a name may be missing for another reason.
  if (everything_) TRY(take_nameless());
  if (target_ != nullptr) target_->remove_known();
  dress_root();
  return {};
}

// Goes on until `depth` directories are left open, the innermost of them complete.
Result<void> ExtractTree::walk(std::size_t depth) {
  while (true) {
    Frame& frame = frames_.back();
    if (frame.next == frame.names.size()) {
      if (!frame.listed) {
        list(frame);
        continue;
      }
      if (frames_.size() == depth) return {};
      leave();
      continue;
    }
    const Name name = std::move(frame.names[frame.next++]);
    const Only* only = nullptr;
    if (frame.only != nullptr) {
      const Only& wanted = frame.only->children.at(name.name);
      if (!wanted.all) only = &wanted;
    }
    const std::size_t above = path_.size();
    const std::size_t open = frames_.size();
    if (stopped()) return error(Code::kShutdown);
    TRY(take(fd_of(frame), name.name, name.inode, only, name.type_bits));
    if (frames_.size() == open) path_.resize(above);
    events_.on_progress(counts_);
  }
}

void ExtractTree::list(Frame& frame) {
  frame.names.clear();
  frame.next = 0;
  if (frame.only != nullptr) return list_wanted(frame);
  Result<Listed> listed = wait(list_names(&fs_, frame.id, frame.cookie));
  frame.listed = !listed.has_value() || listed->end;
  if (!listed.has_value()) {
    tell({.kind = ExtractLoss::Kind::kDoubtful,
          .path = path_.empty() ? "/" : path_,
          .why = fmt::format("names in it cannot be read: {}", why_lost(listed.error())),
          .size_bytes = 0,
          .ranges = {}});
    return;
  }
  frame.cookie = listed->cookie;
  frame.names = std::move(listed->names);
}

void ExtractTree::list_wanted(Frame& frame) {
  frame.listed = true;
  for (const auto& [name, wanted] : frame.only->children) {
    const Result<Attributes> found = wait(fs_.lookup(frame.id, name));
    if (found.has_value()) {
      fs_.forget(found->inode, 1);
      frame.names.push_back({name, found->inode, 0});
      continue;
    }
    const std::size_t above = path_.size();
    path_ += "/" + name;
    tell_missing(found.error().code == Code::kNotFound ? "there is nothing of this name"
                                                       : why_lost(found.error()));
    path_.resize(above);
  }
}

// Something that a name leads to. A directory is open afterwards, and its path is path_.
Result<void> ExtractTree::take(int parent, std::string name, InodeId id, const Only* only,
                               std::uint32_t type_bits) {
  const std::size_t above = path_.size();
  path_ += "/" + name;
  const Result<Attributes> found = wait(fs_.getattr(id));
  if (!found.has_value()) {
    meet(id);
    tell_missing(why_lost(found.error()));
    return {};
  }
  const Attributes& attributes = *found;
  if (type_bits != 0 && type_bits != (attributes.mode & S_IFMT)) {
    tell({.kind = ExtractLoss::Kind::kDoubtful,
          .path = path_,
          .why = "its name says that it is of another kind (a file, a directory ...): what it had "
                 "may be missing",
          .size_bytes = 0,
          .ranges = {}});
  }
  if (!ExtractTarget::is_name(name)) {
    name = fmt::format("inode-{}", id);
    tell({.kind = ExtractLoss::Kind::kDoubtful,
          .path = path_,
          .why = fmt::format("this is no name; it comes out as {}", name),
          .size_bytes = 0,
          .ranges = {}});
  }
  if (S_ISDIR(attributes.mode)) {
    Frame frame;
    frame.id = id;
    frame.attributes = attributes;
    frame.only = only;
    return enter(parent, name, above, std::move(frame));
  }
  if (only != nullptr) {
    tell_missing("it is no directory");
    return {};
  }
  const bool again = !meet(id);
  if (again && attributes.nlink > 1 &&
      (target_ == nullptr || target_->link_known(id, parent, name, path_))) {
    ++counts_.links;
    events_.on_name(path_, attributes);
    return {};
  }
  Result<void> outcome = take_one(parent, name, id, attributes);
  if (!outcome.has_value() && !made_ && ExtractTarget::is_other_name(outcome.error())) {
    outcome = under_other_name(id, name, [&](const std::string& other) {
      return take_one(parent, other, id, attributes);
    });
  }
  if (!outcome.has_value()) {
    if (ExtractTarget::is_end(outcome.error())) return outcome;
    tell_missing(fmt::format("it cannot be made: {}", why_lost(outcome.error())));
    return {};
  }
  if (!again && attributes.nlink > 1 && target_ != nullptr) target_->remember(id, parent, name);
  events_.on_name(path_, attributes);
  tell_doubt(id, attributes.size_bytes);
  return {};
}

Result<void> ExtractTree::take_one(int parent, const std::string& name, InodeId id,
                                   const Attributes& attributes) {
  made_ = false;
  partial_ = false;
  return S_ISREG(attributes.mode) ? take_file(parent, name, id, attributes)
                                  : take_other(parent, name, id, attributes);
}

Result<void> ExtractTree::under_other_name(
    InodeId id, std::string& name, const std::function<Result<void>(const std::string&)>& make) {
  constexpr int kNamesTried = 100;  // more than one only if the tree has such names itself
  Result<void> outcome;
  for (int i = 0; i < kNamesTried; ++i) {
    const std::string other =
        i == 0 ? fmt::format("inode-{}", id) : fmt::format("inode-{}.{}", id, i);
    outcome = make(other);
    if (!outcome.has_value() && !made_ && ExtractTarget::is_other_name(outcome.error())) continue;
    if (!outcome.has_value()) return outcome;
    tell({.kind = ExtractLoss::Kind::kDoubtful,
          .path = path_,
          .why = fmt::format(
              "the target has this name already, or cannot have it; it comes out as {}", other),
          .size_bytes = 0,
          .ranges = {}});
    name = other;
    return {};
  }
  return outcome;
}

Result<void> ExtractTree::enter(int parent, const std::string& name, std::size_t path_bytes,
                                Frame frame) {
  if (!meet(frame.id)) {
    tell_missing("it is a directory that has come out under another name already");
    return {};
  }
  frame.path_bytes = path_bytes;
  if (target_ != nullptr) {
    const auto make = [&](const std::string& as) -> Result<void> {
      made_ = false;
      frame.fd = TRY(target_->make_directory(parent, as));
      return {};
    };
    std::string as = name;
    Result<void> made = make(as);
    if (!made.has_value() && ExtractTarget::is_other_name(made.error()))
      made = under_other_name(frame.id, as, make);
    if (!made.has_value()) {
      if (ExtractTarget::is_end(made.error())) return made.error();
      tell_missing(fmt::format("it cannot be made, and nothing in it comes out: {}",
                               why_lost(made.error())));
      return {};
    }
  }
  ++counts_.directories;
  events_.on_name(path_, frame.attributes);
  frames_.push_back(std::move(frame));
  return {};
}

void ExtractTree::leave() {
  const Frame frame = std::move(frames_.back());
  frames_.pop_back();
  tell_doubt(frame.id, 0);
  if (target_ != nullptr)
    target_->dress(frame.fd.get(), frame.attributes, xattrs_of(frame.id), path_);
  path_.resize(frame.path_bytes);
}

void ExtractTree::dress_root() {
  path_ = "/";
  const Frame frame = std::move(frames_.back());
  frames_.pop_back();
  if (frame.id.raw == 0) return;
  tell_doubt(frame.id, 0);
  if (target_ != nullptr)
    target_->dress(target_->root(), frame.attributes, xattrs_of(frame.id), path_);
}

ExtractXattrs ExtractTree::xattrs_of(InodeId id) {
  ExtractXattrs xattrs;
  const Result<std::string> names = wait(fs_.listxattr(id));
  if (!names.has_value()) return xattrs;
  for (std::size_t at = 0; at < names->size();) {
    const std::string name = names->c_str() + at;
    at += name.size() + 1;
    Result<std::string> value = wait(fs_.getxattr(id, name));
    if (value.has_value()) xattrs.emplace_back(name, std::move(value).value());
  }
  return xattrs;
}

Result<void> ExtractTree::take_other(int parent, const std::string& name, InodeId id,
                                     const Attributes& attributes) {
  const bool link = S_ISLNK(attributes.mode);
  Result<std::string> target = std::string{};
  if (link) {
    target = wait(fs_.readlink(id));
    if (!target.has_value() && target.error().code == Code::kInvalid)
      return error(Code::kFormatInvalid, id.raw);  // where it leads is not known
    if (!target.has_value()) return target.error();
  }
  if (target_ != nullptr) {
    TRY(link ? target_->make_symlink(parent, name, *target)
             : target_->make_special(parent, name, attributes.mode, attributes.rdev));
    made_ = true;
    target_->dress(parent, name, attributes, xattrs_of(id), path_);
  }
  ++counts_.others;
  return {};
}

// Data.

Result<void> ExtractTree::take_file(int parent, const std::string& name, InodeId id,
                                    const Attributes& attributes) {
  ++counts_.files;
  if (target_ == nullptr) return {};
  Result<UniqueFd> made = target_->make_file(parent, name);
  if (!made.has_value()) {
    --counts_.files;
    return made.error();
  }
  made_ = true;
  const std::uint64_t bytes_before = counts_.bytes;
  ExtractLoss loss{.kind = ExtractLoss::Kind::kPartial,
                   .path = path_,
                   .why = {},
                   .size_bytes = attributes.size_bytes,
                   .ranges = {}};
  const Result<void> filled = fill_file(std::move(made).value(), id, attributes, loss);
  if (!filled.has_value()) {
    // Part of a file under its name would pass for the file.
    target_->remove(parent, name);
    --counts_.files;
    counts_.bytes = bytes_before;
    return filled;
  }
  partial_ = !loss.ranges.empty();
  if (partial_) {
    tell(std::move(loss));
    return {};
  }
  const Result<bool> lacks = wait(fs_.lacks_data(id));
  if (lacks.has_value() && *lacks && !fs_.salvage_doubt(id).any()) {
    tell({.kind = ExtractLoss::Kind::kDoubtful,
          .path = path_,
          .why = "it has less data than it says: part of it may be lost, and is zeros in the copy",
          .size_bytes = attributes.size_bytes,
          .ranges = {}});
  }
  return {};
}

// It grows as it is written: what is cut off by a kill is shorter than it should be.
Result<void> ExtractTree::fill_file(UniqueFd file, InodeId id, const Attributes& attributes,
                                    ExtractLoss& loss) {
  TRY(copy_data(file.get(), id, attributes.size_bytes, loss));
  TRY(target_->set_size(file.get(), attributes.size_bytes));
  target_->dress(file.get(), attributes, xattrs_of(id), path_);
  return target_->close(std::move(file));
}

Result<void> ExtractTree::copy_data(int file, InodeId id, std::uint64_t size, ExtractLoss& loss) {
  for (std::uint64_t at = 0; at < size;) {
    const Result<std::uint64_t> data = wait(fs_.seek(id, at, SeekKind::kData));
    if (!data.has_value() && data.error().code == Code::kNoDevice) break;
    if (!data.has_value()) {
      add_range(loss, at, size, why_lost(data.error()));
      break;
    }
    const Result<std::uint64_t> hole = wait(fs_.seek(id, *data, SeekKind::kHole));
    const std::uint64_t end = hole.has_value() ? std::min(*hole, size) : size;
    // What is not known where data ends is asked for all the same.
    if (*data >= end) break;
    TRY(copy_range(file, id, *data, end, loss));
    at = end;
  }
  add_unknown(id, size, loss);
  return {};
}

Result<void> ExtractTree::copy_range(int file, InodeId id, std::uint64_t from, std::uint64_t to,
                                     ExtractLoss& loss) {
  while (from < to) {
    const std::uint64_t end =
        std::min(to, align_down(from, kWindowBytes) + kWindowsAtOnce * kWindowBytes);
    const std::vector<Result<ReadReply>> replies = wait(read_windows(&fs_, id, from, end));
    for (const Result<ReadReply>& reply : replies) {
      const std::uint64_t next = std::min(end, align_down(from, kWindowBytes) + kWindowBytes);
      if (reply.has_value()) {
        TRY(write(file, from, *reply));
      } else {
        TRY(copy_readable(file, id, from, next, reply.error(), loss));
      }
      from = next;
    }
    events_.on_progress(counts_);
    if (stopped()) return error(Code::kShutdown);
  }
  return {};
}

// A part that cannot be read as a whole, in halves, down to blocks.
Result<void> ExtractTree::copy_readable(int file, InodeId id, std::uint64_t from, std::uint64_t to,
                                        Error failure, ExtractLoss& loss) {
  if (align_down(from, kBlockBytes) + kBlockBytes >= to) {
    add_range(loss, from, to, why_lost(failure));
    return {};
  }
  const std::uint64_t middle = align_down(from + (to - from) / 2 + kBlockBytes - 1, kBlockBytes);
  const std::pair<std::uint64_t, std::uint64_t> halves[] = {{from, middle}, {middle, to}};
  for (const auto& [first, end] : halves) {
    const Result<ReadReply> reply = wait(fs_.read(id, first, end - first, false));
    if (reply.has_value()) {
      TRY(write(file, first, *reply));
    } else {
      TRY(copy_readable(file, id, first, end, reply.error(), loss));
    }
  }
  return {};
}

Result<void> ExtractTree::write(int file, std::uint64_t at, const ReadReply& reply) {
  if (reply.size_bytes == 0) return {};
  counts_.bytes += reply.size_bytes;
  return target_->write(file, at, reply.buffer.span().subspan(reply.begin, reply.size_bytes));
}

// What may have been where a part of the map is lost, and is not known from the log.
void ExtractTree::add_unknown(InodeId id, std::uint64_t size, ExtractLoss& loss) {
  const SalvageDoubt doubt = fs_.salvage_doubt(id);
  if (doubt.windows.empty()) return;
  const std::string why = "the metadata that leads to it is lost";
  for (const auto& [first, last] : doubt.windows) {
    const std::uint64_t end =
        last > size / kWindowBytes ? size : std::min(size, last * kWindowBytes);
    if (first > size / kWindowBytes) break;
    for (std::uint64_t at = first * kWindowBytes; at < end;) {
      const Result<std::uint64_t> data = wait(fs_.seek(id, at, SeekKind::kData));
      const std::uint64_t known = data.has_value() ? std::min(*data, end) : end;
      add_range(loss, at, known, why);
      if (known == end) break;
      const Result<std::uint64_t> hole = wait(fs_.seek(id, known, SeekKind::kHole));
      at = hole.has_value() ? *hole : end;
    }
  }
  std::ranges::sort(loss.ranges);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> joined;
  for (const auto& range : loss.ranges) {
    if (!joined.empty() && range.first <= joined.back().second) {
      joined.back().second = std::max(joined.back().second, range.second);
    } else {
      joined.push_back(range);
    }
  }
  loss.ranges = std::move(joined);
}

// What is told.

void ExtractTree::tell(ExtractLoss loss) {
  switch (loss.kind) {
    case ExtractLoss::Kind::kMissing: ++counts_.missing; break;
    case ExtractLoss::Kind::kPartial: ++counts_.partial; break;
    case ExtractLoss::Kind::kDoubtful: ++counts_.doubtful; break;
    case ExtractLoss::Kind::kAttributes: ++counts_.attributes; break;
  }
  for (const auto& [from, to] : loss.ranges) counts_.lost_bytes += to - from;
  events_.on_loss(loss);
}

void ExtractTree::tell_missing(std::string why) {
  tell({.kind = ExtractLoss::Kind::kMissing,
        .path = path_,
        .why = std::move(why),
        .size_bytes = 0,
        .ranges = {}});
}

void ExtractTree::tell_doubt(InodeId id, std::uint64_t size_bytes) {
  const SalvageDoubt doubt = fs_.salvage_doubt(id);
  const bool partial = std::exchange(partial_, false);
  std::string why;
  const auto add = [&why](bool holds, const char* text) {
    if (holds) why += (why.empty() ? "" : "; ") + std::string{text};
  };
  add(doubt.outdated, "it may be older than it was, or have been removed");
  add(doubt.names, "names in it may be missing, or have been removed");
  add(doubt.mixed, "parts of it may be older than others, or missing");
  add(doubt.changes, "its last changes could not be applied");
  // What is copied tells where.
  add(target_ == nullptr && !doubt.windows.empty() &&
          doubt.windows.front().first < ceil_div(size_bytes, kWindowBytes),
      "the metadata that leads to some of its data is lost");
  const bool attributes = why.empty() && !partial;
  add(doubt.attributes, "extended attributes of it may be missing");
  if (why.empty()) return;
  tell({.kind = attributes ? ExtractLoss::Kind::kAttributes : ExtractLoss::Kind::kDoubtful,
        .path = path_.empty() ? "/" : path_,
        .why = std::move(why),
        .size_bytes = 0,
        .ranges = {}});
}

// Inodes that no name leads to.

bool ExtractTree::meet(InodeId id) {
  std::uint64_t& word = met_[id.raw / 4096][id.raw / 64 % 64];
  const std::uint64_t bit = std::uint64_t{1} << id.raw % 64;
  const bool first = (word & bit) == 0;
  word |= bit;
  return first;
}

bool ExtractTree::met(InodeId id) const {
  const auto page = met_.find(id.raw / 4096);
  return page != met_.end() &&
         (page->second[id.raw / 64 % 64] & std::uint64_t{1} << id.raw % 64) != 0;
}

// Directories first: most of the others are in them.
Result<void> ExtractTree::take_nameless() {
  for (const bool directories : {true, false}) {
    for (InodeId from{0};;) {
      const Result<std::vector<InodeId>> some = wait(fs_.inodes_behind(from));
      if (!some.has_value() || some->empty()) break;
      from = some->back();
      for (const InodeId id : *some) {
        if (id.raw == 0 || met(id)) continue;
        const Result<Attributes> attributes = wait(fs_.getattr(id));
        // Without a link it was removed while it was in use: nobody misses it.
        if (!attributes.has_value() || attributes->nlink == 0) continue;
        if (S_ISDIR(attributes->mode) == directories) TRY(take_nameless_one(id));
      }
    }
  }
  return {};
}

Result<void> ExtractTree::take_nameless_one(InodeId id) {
  if (nameless_path_.empty()) TRY(make_nameless());
  path_ = nameless_path_;
  ++counts_.nameless;
  const std::size_t open = frames_.size();
  TRY(take(nameless_.get(), fmt::format("inode-{}", id), id, nullptr));
  if (frames_.size() == open) return {};
  TRY(walk(open + 1));
  leave();
  return {};
}

Result<void> ExtractTree::make_nameless() {
  std::string name = kNamelessDirectory;
  for (int i = 1; target_ != nullptr && !nameless_; ++i) {
    Result<UniqueFd> made = target_->make_directory(target_->root(), name);
    if (made.has_value()) {
      nameless_ = std::move(made).value();
    } else if (made.error().sys_errno == EEXIST && i < 1000) {
      name = fmt::format("{}.{}", kNamelessDirectory, i);
    } else {
      return made.error();
    }
  }
  nameless_path_ = "/" + name;
  return {};
}

}  // namespace dynamicfs::fs
