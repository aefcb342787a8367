// Who is protected how: the policy of the pool, and those that files and directories have as an attribute.
//
// Inheritance  What is made in a directory gets the attribute of the directory; nothing else is passed on. A name that
//              moves takes its policy along.
// Change       A write takes the policy that its file has. What there is is encoded anew by a compaction (fs/compaction.hpp):
//              the superblock says that there may be something, from before the change until a look at all files
//              has found nothing. So it goes on after a crash.
#include <algorithm>

#include "fs/filesystem_impl.hpp"

namespace dynamicfs::fs {

Task<Result<void>> Filesystem::Impl::prepare_for_policy(const Inode& inode,
                                                        std::optional<journal::Policy> own) {
  const journal::Policy policy = own.value_or(pool->policy());
  if (own) {
    // Also those that are away: what comes from elsewhere with its policy should keep it meanwhile.
    const std::vector<journal::DiskRecord> disks = pool->superblock().disks;
    const auto stay =
        std::ranges::count_if(disks, [](const journal::DiskRecord& disk) { return !disk.leaving; });
    if (static_cast<std::size_t>(stay) < policy.width())
      co_return error(Code::kTooFewDisks, policy.width());
    CO_TRY(co_await pool->raise_tolerance(policy.tolerance()));
    if (policy.whole_files) {
      CO_TRY(co_await pool->note_whole_files());
    }
  }
  if (!inode.is_regular() || policy_of(inode) == policy) co_return Result<void>{};
  if (inode.map->reserved_blocks() != 0) store->widen_promises(policy);
  // A write that is under way takes the new policy when it finds the old one gone.
  CO_TRY(co_await note_policy_set(inode));
  co_return Result<void>{};
}

Task<Result<void>> Filesystem::Impl::note_policy_set(const Inode& inode) {
  if (!inode.is_regular() || inode.map->data_blocks() == 0) co_return Result<void>{};
  const bool known = pool->reencoding();
  CO_TRY(co_await pool->set_reencoding(true));
  compaction->note_policy(known);
  co_return Result<void>{};
}

Task<Result<void>> Filesystem::set_policy(journal::Policy policy) {
  CO_TRY(impl_->writable());
  const AsyncMutex::Guard guard = co_await impl_->policy_mutex.acquire();
  const bool known = impl_->pool->reencoding();
  CO_TRY(co_await impl_->pool->set_policy(policy));
  impl_->store->widen_promises(policy);
  impl_->compaction->note_policy(known);
  co_return Result<void>{};
}

Task<Result<PolicyReport>> Filesystem::policy_report(InodeId id) {
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  PolicyReport report;
  report.policy = impl_->policy_of(*inode);
  report.own = inode->own_policy.load(std::memory_order_acquire) != 0;
  if (!inode->is_regular()) co_return report;
  const auto count = [&](const extent::Mapping& mapping) {
    const std::optional<journal::Policy> layout = impl_->store->layout(mapping.chunk);
    if (!layout) return true;
    auto known = std::ranges::find(report.layouts, *layout,
                                   &std::pair<journal::Policy, std::uint64_t>::first);
    if (known == report.layouts.end()) known = report.layouts.insert(known, {*layout, 0});
    known->second += std::uint64_t{mapping.count} * kBlockBytes;
    const std::optional<DiskId> disk =
        report.policy.whole_files ? impl_->store->disk_of(mapping.chunk) : std::nullopt;
    if (!disk) return true;
    auto on = std::ranges::find(report.disks, *disk, &std::pair<DiskId, std::uint64_t>::first);
    if (on == report.disks.end()) on = report.disks.insert(on, {*disk, 0});
    on->second += std::uint64_t{mapping.count} * kBlockBytes;
    return true;
  };
  CO_TRY(co_await impl_->walk_data(id, scheduler::IoClass::kBackground, count));
  std::ranges::stable_sort(report.disks, std::greater{}, &std::pair<DiskId, std::uint64_t>::second);
  co_return report;
}

Task<Result<bool>> Filesystem::lacks_data(InodeId id) {
  std::uint64_t blocks = 0;
  const auto count = [&blocks](const extent::Mapping& mapping) {
    blocks += mapping.count;
    return true;
  };
  CO_TRY(co_await impl_->walk_data(id, scheduler::IoClass::kRead, count));
  CO_TRY_ASSIGN(const InodeRef inode, co_await impl_->find(id));
  co_return inode->is_regular() && blocks < inode->map->data_blocks();
}

ReencodeReport Filesystem::reencode_report() const { return impl_->compaction->report(); }

}  // namespace dynamicfs::fs
