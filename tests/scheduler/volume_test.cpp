// The stores behind disks: what they are, made and opened.
#include "scheduler/volume.hpp"

#include <doctest/doctest.h>

#include "tests/base/dies.hpp"
#include "tests/scheduler/stores.hpp"

namespace dynamicfs::scheduler {
namespace {

TEST_SUITE("volume") {
  TEST_CASE("inspecting changes nothing and tells a directory, a file and what is missing apart") {
    const TemporaryDirectory directory;
    const auto empty = inspect_volume(directory.path.string()).value();
    CHECK(empty.kind == DiskKind::kDirectory);
    CHECK(empty.path == directory.path.string());
    CHECK(empty.file == directory / kVolumeFileName);
    CHECK_FALSE(empty.exists);
    CHECK(empty.size_bytes == 0);
    CHECK(empty.free_bytes > 0);
    CHECK(fs::is_empty(directory.path));

    const auto image = inspect_volume(directory / "new image").value();
    CHECK(image.kind == DiskKind::kImageFile);
    CHECK_FALSE(image.exists);
    CHECK(image.free_bytes > 0);
    CHECK(fs::is_empty(directory.path));

    CHECK(inspect_volume(directory / "missing/image").error() ==
          system_error(Code::kDiskOpen, ENOENT));
    CHECK(inspect_volume(directory / "missing/").error() == system_error(Code::kDiskOpen, ENOENT));
    CHECK(inspect_volume("").error() == system_error(Code::kDiskOpen, ENOENT));
    CHECK(inspect_volume("/dev/null").error() == error(Code::kInvalid));
    std::ofstream(directory / "file") << "x";
    CHECK(inspect_volume(directory / "file/below").error().code == Code::kDiskOpen);
  }

  TEST_CASE("a name with a slash at its end and a relative one mean the same disk") {
    const TemporaryDirectory directory;
    CHECK(inspect_volume(directory / "").value().path == directory.path.string());
    const std::string relative = fs::relative(directory.path).string();
    CHECK(inspect_volume(relative).value().path == directory.path.string());
  }

  TEST_CASE("a volume file is made once, sparse, for its owner alone") {
    const TemporaryDirectory directory;
    const auto target = inspect_volume(directory.path.string()).value();
    CHECK(create_volume_file(target, kVolumeBytes).has_value());
    struct stat of {};
    REQUIRE(::stat(target.file.c_str(), &of) == 0);
    CHECK(of.st_size == static_cast<off_t>(kVolumeBytes));
    CHECK(of.st_blocks * 512 < static_cast<off_t>(kMiB));
    CHECK((of.st_mode & 0777) == 0600);
    CHECK(create_volume_file(target, kVolumeBytes).error() ==
          system_error(Code::kDiskOpen, EEXIST));
    const auto again = inspect_volume(directory.path.string()).value();
    CHECK(again.exists);
    CHECK(again.size_bytes == kVolumeBytes);
  }

  TEST_CASE("a size that is not whole blocks is refused and nothing is left behind") {
    const TemporaryDirectory directory;
    const auto target = inspect_volume(directory.path.string()).value();
    CHECK(create_volume_file(target, 0).error().code == Code::kInvalid);
    CHECK(create_volume_file(target, 5000).error().code == Code::kInvalid);
    // More than any file system here takes.
    CHECK(create_volume_file(target, std::uint64_t{1} << 62).error().code == Code::kDiskOpen);
    CHECK(fs::is_empty(directory.path));
  }

  TEST_CASE("opening what is not there or not ours to open is kDiskOpen with its errno") {
    const TemporaryDirectory directory;
    CHECK(open_at(directory / "image").error() == system_error(Code::kDiskOpen, ENOENT));
    CHECK(open_at(directory.path.string()).error() == system_error(Code::kDiskOpen, ENOENT));
    std::ofstream(directory / "empty").close();
    CHECK(open_at(directory / "empty").error().code == Code::kDiskOpen);
  }

  TEST_CASE("a file of odd length is a volume of whole blocks") {
    const TemporaryDirectory directory;
    std::ofstream(directory / "odd") << std::string(3 * kBlockBytes + 100, 'x');
    auto disk = open_at(directory / "odd").value();
    CHECK(disk->size_bytes() == 3 * kBlockBytes);
    Buffer buffer(3 * kBlockBytes);
    CHECK(read(*disk, 0, buffer.span()).has_value());
  }

  TEST_CASE(
      "direct() says what the open file is, and a store without direct I/O is used as it is") {
    on_each_kind([](const std::string& path) {
      auto disk = open_at(path).value();
      const std::string file = inspect_volume(path).value().file;
      bool found = false;
      for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        if (fs::read_symlink(entry.path(), gone) != file) continue;
        const int flags = ::fcntl(std::stoi(entry.path().filename().string()), F_GETFL);
        found = found || ((flags & O_DIRECT) != 0) == disk->direct();
      }
      CHECK(found);
      if (disk->kind() == DiskKind::kBlockDevice) CHECK(disk->direct());
      if (path.ends_with("mounted")) CHECK_FALSE(disk->direct());
    });
  }
}

}  // namespace
}  // namespace dynamicfs::scheduler
