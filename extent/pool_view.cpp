#include "extent/pool_view.hpp"

namespace dynamicfs::extent {

std::shared_ptr<const PoolView> look_at(const journal::Pool& pool) {
  while (true) {
    auto view = std::make_shared<PoolView>();
    view->healthy = pool.healthy();
    for (const journal::DiskStatus& status : pool.status()) {
      const journal::DiskRecord& record = status.record;
      if (record.id.raw >= view->disks.size()) view->disks.resize(record.id.raw + std::size_t{1});
      PoolView::DiskEntry& entry = view->disks[record.id.raw];
      entry.first_slot_offset = record.first_slot_offset;
      entry.slots = record.slots;
      entry.leaving = record.leaving;
      entry.spare = record.spare;
      if (status.health == journal::DiskHealth::kStale) entry.stale_since = record.stale_since;
      if (std::binary_search(view->healthy->begin(), view->healthy->end(), record.id)) {
        entry.disk = pool.disk(record.id);
      }
    }
    // A disk may have failed in between; then look again, so that the parts agree.
    if (pool.healthy() == view->healthy) return view;
  }
}

}  // namespace dynamicfs::extent
