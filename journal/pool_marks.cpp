// The part of the pool for what the superblock remembers of it as a whole: its policy, and what is under way.
#include <algorithm>
#include <functional>
#include <utility>

#include "base/assert.hpp"
#include "journal/pool.hpp"
#include "journal/pool_impl.hpp"

namespace dynamicfs::journal {

// `change` says whether there is anything to write; called with the mutex held.
Task<Result<void>> Pool::Impl::mark(std::function<Result<bool>(Superblock&)> change) {
  const auto guard = co_await writing.acquire();
  if (read_only.load(std::memory_order_acquire)) co_return Code::kReadOnly;
  {
    LockGuard lock(mutex);
    DFS_ASSERT(begun);
    const Result<bool> changed = change(superblock);
    if (!changed.has_value()) co_return changed.error();
    if (!*changed) co_return Result<void>{};
  }
  co_return co_await store(Copies::kBoth);
}

Task<Result<void>> Pool::set_rebalancing(bool on) {
  return impl_->mark([on](Superblock& superblock) -> Result<bool> {
    return std::exchange(superblock.rebalancing, on) != on;
  });
}

bool Pool::rebalancing() const {
  LockGuard lock(impl_->mutex);
  return impl_->superblock.rebalancing;
}

Task<Result<void>> Pool::set_policy(Policy policy) {
  Impl* const impl = impl_.get();
  return impl->mark(
      [impl, policy](Superblock& superblock) DFS_NO_THREAD_SAFETY_ANALYSIS -> Result<bool> {
        if (superblock.policy == policy) return false;
        const auto is_lost = [impl](const auto& seat) DFS_NO_THREAD_SAFETY_ANALYSIS {
          return !seat->here() && !impl->superblock.find(seat->id)->spare;
        };
        const auto lost = static_cast<unsigned>(std::ranges::count_if(impl->seats, is_lost));
        if (impl->staying->size() < policy.width())
          return error(Code::kTooFewDisks, policy.width());
        Superblock changed = superblock;
        changed.policy = policy;
        if (lost > changed.tolerance()) return error(Code::kDiskMissing, lost);
        // Some files keep it until they are written anew.
        superblock.whole_files |= superblock.policy.whole_files;
        superblock.policy = policy;
        superblock.reencoding = true;
        impl->policy.store(policy.packed(), std::memory_order_release);
        return true;
      });
}

Task<Result<void>> Pool::set_reencoding(bool on) {
  return impl_->mark([on](Superblock& superblock) -> Result<bool> {
    return std::exchange(superblock.reencoding, on) != on;
  });
}

bool Pool::reencoding() const {
  LockGuard lock(impl_->mutex);
  return impl_->superblock.reencoding;
}

Task<Result<void>> Pool::raise_tolerance(unsigned tolerance) {
  const auto wanted = static_cast<std::uint8_t>(std::min<unsigned>(tolerance, kMembersMax - 1));
  return impl_->mark([wanted](Superblock& superblock) -> Result<bool> {
    // Also if the pool's own asks for as much: that may become less.
    if (superblock.tolerance_min >= wanted) return false;
    superblock.tolerance_min = wanted;
    return true;
  });
}

Task<Result<void>> Pool::note_whole_files() {
  return impl_->mark([](Superblock& superblock) -> Result<bool> {
    return !std::exchange(superblock.whole_files, true);
  });
}

Task<Result<void>> Pool::set_scrub(ScrubMark mark) {
  return impl_->mark([mark](Superblock& superblock) -> Result<bool> {
    return std::exchange(superblock.scrub, mark) != mark;
  });
}

Task<Result<void>> Pool::note_scrub(InodeId next) {
  return impl_->mark([next](Superblock& superblock) -> Result<bool> {
    // One that has ended meanwhile, or was called off, stays so.
    if (superblock.scrub.next.raw == 0) return false;
    superblock.scrub.next = next;
    return true;
  });
}

}  // namespace dynamicfs::journal
