#include "tools/bench/extent_others.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>

#if defined(DYNAMICFS_BENCH_LMDB)
#include <lmdb.h>
#endif
#if defined(DYNAMICFS_BENCH_ROCKSDB)
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/table.h>
#endif
#if defined(DYNAMICFS_BENCH_SQLITE)
#include <sqlite3.h>
#endif

namespace dynamicfs::bench {
namespace {

// What a mapping is, in 24 bytes and four for each block, as it would be stored.
struct Value {
  std::uint64_t first = 0;
  std::uint64_t generation = 0;
  std::uint32_t chunk = 0;
  std::uint16_t block = 0;
  std::uint16_t count = 0;
};
static_assert(sizeof(Value) == 24);

// What a look-up hands out.
struct Found {
  Value value;
  std::uint32_t crc = 0;
};

std::string encode(const Extent& extent) {
  const Value value{.first = extent.first,
                    .generation = extent.first + 1,
                    .chunk = static_cast<std::uint32_t>(extent.first / 1024),
                    .block = static_cast<std::uint16_t>(extent.first % 1024),
                    .count = static_cast<std::uint16_t>(extent.count)};
  std::string bytes(sizeof value + extent.count * sizeof(std::uint32_t), '\1');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

// What `bytes` says of `block`, copied; how many blocks of it are mapped: one or none.
std::uint64_t take(const void* bytes, std::uint64_t block, Found& out) {
  std::memcpy(&out.value, bytes, sizeof out.value);
  if (out.value.first > block) return 0;
  const std::uint64_t skipped = block - out.value.first;
  std::memcpy(&out.crc,
              static_cast<const char*>(bytes) + sizeof out.value + skipped * sizeof out.crc,
              sizeof out.crc);
  return 1;
}

template <class T>
void keep(T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

// A directory in memory, if there is one.
class Directory {
 public:
  Directory() {
    const std::filesystem::path base = std::filesystem::is_directory("/dev/shm")
                                           ? std::filesystem::path("/dev/shm")
                                           : std::filesystem::temp_directory_path();
    std::string name = base / "extent_bench.XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = name;
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class StdMap final : public Other {
 public:
  explicit StdMap(const std::function<void(const EachExtent&)>& each) {
    each([&](Extent extent) {
      const std::string bytes = encode(extent);
      Bytes value{};
      if (bytes.size() > value.size()) throw std::runtime_error("std::map: a long extent");
      std::memcpy(value.data(), bytes.data(), bytes.size());
      extents_.emplace_hint(extents_.end(), extent.first + extent.count - 1, value);
    });
  }
  std::unique_ptr<Reader> reader() override { return std::make_unique<Look>(*this); }

 private:
  struct Look final : Reader {
    explicit Look(StdMap& store_in) : store(store_in) {}
    std::uint64_t look_up(std::span<const std::uint64_t> blocks) override {
      std::uint64_t sum = 0;
      for (const std::uint64_t block : blocks) {
        Found found;
        const std::shared_lock lock(store.mutex_);
        const auto at = store.extents_.lower_bound(block);
        if (at != store.extents_.end()) sum += take(at->second.data(), block, found);
        keep(found);
      }
      return sum;
    }
    StdMap& store;
  };
  std::shared_mutex mutex_;
  // In the node, which spares it a step.
  using Bytes = std::array<char, sizeof(Value) + kExtentBlocksMax * sizeof(std::uint32_t)>;
  std::map<std::uint64_t, Bytes> extents_;
};

#if defined(DYNAMICFS_BENCH_LMDB)
void check_lmdb(int code) {
  if (code != 0) throw std::runtime_error(fmt::format("LMDB: {}", mdb_strerror(code)));
}

class Lmdb final : public Other {
 public:
  explicit Lmdb(const std::function<void(const EachExtent&)>& each) {
    check_lmdb(mdb_env_create(&env_));
    check_lmdb(mdb_env_set_mapsize(env_, std::size_t{4} << 30));
    check_lmdb(mdb_env_set_maxreaders(env_, 512));
    check_lmdb(mdb_env_open(env_, directory_.path().c_str(), MDB_NOSYNC | MDB_NOTLS | MDB_NORDAHEAD,
                            0600));
    MDB_txn* transaction = nullptr;
    check_lmdb(mdb_txn_begin(env_, nullptr, 0, &transaction));
    check_lmdb(mdb_dbi_open(transaction, nullptr, MDB_INTEGERKEY | MDB_CREATE, &table_));
    each([&](Extent extent) {
      std::size_t last = extent.first + extent.count - 1;
      std::string bytes = encode(extent);
      MDB_val key{sizeof last, &last};
      MDB_val value{bytes.size(), bytes.data()};
      check_lmdb(mdb_put(transaction, table_, &key, &value, MDB_APPEND));
    });
    check_lmdb(mdb_txn_commit(transaction));
  }
  ~Lmdb() override { mdb_env_close(env_); }
  std::unique_ptr<Reader> reader() override { return std::make_unique<Look>(*this); }

 private:
  // A read transaction of its own for each look-up, as ours pins for each.
  struct Look final : Reader {
    explicit Look(Lmdb& store) {
      check_lmdb(mdb_txn_begin(store.env_, nullptr, MDB_RDONLY, &transaction));
      check_lmdb(mdb_cursor_open(transaction, store.table_, &cursor));
      mdb_txn_reset(transaction);
    }
    ~Look() override {
      mdb_cursor_close(cursor);
      mdb_txn_abort(transaction);
    }
    std::uint64_t look_up(std::span<const std::uint64_t> blocks) override {
      std::uint64_t sum = 0;
      for (const std::uint64_t block : blocks) {
        Found found;
        check_lmdb(mdb_txn_renew(transaction));
        check_lmdb(mdb_cursor_renew(transaction, cursor));
        std::size_t wanted = block;
        MDB_val key{sizeof wanted, &wanted};
        MDB_val value;
        if (mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE) == 0) {
          sum += take(value.mv_data, block, found);
        }
        keep(found);
        mdb_txn_reset(transaction);
      }
      return sum;
    }
    MDB_txn* transaction = nullptr;
    MDB_cursor* cursor = nullptr;
  };
  Directory directory_;
  MDB_env* env_ = nullptr;
  MDB_dbi table_ = 0;
};
#endif

#if defined(DYNAMICFS_BENCH_ROCKSDB)
void check_rocksdb(const rocksdb::Status& status) {
  if (!status.ok()) throw std::runtime_error("RocksDB: " + status.ToString());
}

class RocksDb final : public Other {
 public:
  explicit RocksDb(const std::function<void(const EachExtent&)>& each) {
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = rocksdb::NewLRUCache(std::size_t{1} << 30, 6);
    rocksdb::Options options;
    options.create_if_missing = true;
    options.compression = rocksdb::kNoCompression;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    rocksdb::DB* opened = nullptr;
    check_rocksdb(rocksdb::DB::Open(options, directory_.path(), &opened));
    database_.reset(opened);
    rocksdb::WriteOptions writing;
    writing.disableWAL = true;
    each([&](Extent extent) {
      const Key key(extent.first + extent.count - 1);
      check_rocksdb(database_->Put(writing, key.slice(), encode(extent)));
    });
    check_rocksdb(database_->Flush({}));
    check_rocksdb(database_->CompactRange({}, nullptr, nullptr));
  }
  std::unique_ptr<Reader> reader() override { return std::make_unique<Look>(*database_); }

 private:
  // Big-endian, so that the order of bytes is that of numbers.
  class Key {
   public:
    explicit Key(std::uint64_t block) : bytes_(__builtin_bswap64(block)) {}
    rocksdb::Slice slice() const { return {reinterpret_cast<const char*>(&bytes_), sizeof bytes_}; }

   private:
    std::uint64_t bytes_;
  };
  // One iterator for all look-ups: it sees the state as of its making, which spares it a good part of
  // what each would cost beside writers.
  struct Look final : Reader {
    explicit Look(rocksdb::DB& database) {
      rocksdb::ReadOptions reading;
      reading.verify_checksums = false;
      iterator.reset(database.NewIterator(reading));
    }
    std::uint64_t look_up(std::span<const std::uint64_t> blocks) override {
      std::uint64_t sum = 0;
      for (const std::uint64_t block : blocks) {
        Found found;
        const Key key(block);
        iterator->Seek(key.slice());
        if (iterator->Valid()) sum += take(iterator->value().data(), block, found);
        keep(found);
      }
      return sum;
    }
    std::unique_ptr<rocksdb::Iterator> iterator;
  };
  Directory directory_;
  std::unique_ptr<rocksdb::DB> database_;
};
#endif

#if defined(DYNAMICFS_BENCH_SQLITE)
// A connection for each thread.
class Connection {
 public:
  Connection(const std::string& uri, int flags) {
    check(sqlite3_open_v2(uri.c_str(), &database_, flags | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX,
                          nullptr));
  }
  ~Connection() {
    sqlite3_finalize(statement_);
    sqlite3_close(database_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  void run(const char* sql) { check(sqlite3_exec(database_, sql, nullptr, nullptr, nullptr)); }
  sqlite3_stmt* prepare(const char* sql) {
    check(sqlite3_prepare_v3(database_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement_, nullptr));
    return statement_;
  }
  static void check(int code) {
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) {
      throw std::runtime_error(fmt::format("SQLite: {}", sqlite3_errstr(code)));
    }
  }

 private:
  sqlite3* database_ = nullptr;
  sqlite3_stmt* statement_ = nullptr;
};

class Sqlite final : public Other {
 public:
  explicit Sqlite(const std::function<void(const EachExtent&)>& each) {
    Connection connection("file:" + path(), SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    connection.run("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;");
    connection.run("CREATE TABLE extents(last INTEGER PRIMARY KEY, value BLOB); BEGIN");
    sqlite3_stmt* const insert = connection.prepare("INSERT INTO extents VALUES(?1, ?2)");
    each([&](Extent extent) {
      const std::string bytes = encode(extent);
      sqlite3_bind_int64(insert, 1, static_cast<sqlite3_int64>(extent.first + extent.count - 1));
      sqlite3_bind_blob(insert, 2, bytes.data(), static_cast<int>(bytes.size()), SQLITE_STATIC);
      Connection::check(sqlite3_step(insert));
      sqlite3_reset(insert);
    });
    connection.run("COMMIT");
  }
  std::unique_ptr<Reader> reader() override { return std::make_unique<Look>(path()); }

 private:
  std::string path() const { return directory_.path() + "/extents"; }
  // `immutable`: no locks of the file, no looking whether it has changed.
  struct Look final : Reader {
    explicit Look(const std::string& path)
        : connection("file:" + path + "?immutable=1", SQLITE_OPEN_READONLY) {
      connection.run("PRAGMA mmap_size=4294967296");
      statement =
          connection.prepare("SELECT value FROM extents WHERE last >= ?1 ORDER BY last LIMIT 1");
    }
    std::uint64_t look_up(std::span<const std::uint64_t> blocks) override {
      std::uint64_t sum = 0;
      for (const std::uint64_t block : blocks) {
        Found found;
        sqlite3_bind_int64(statement, 1, static_cast<sqlite3_int64>(block));
        if (sqlite3_step(statement) == SQLITE_ROW) {
          sum += take(sqlite3_column_blob(statement, 0), block, found);
        }
        keep(found);
        sqlite3_reset(statement);
      }
      return sum;
    }
    Connection connection;
    sqlite3_stmt* statement = nullptr;
  };
  Directory directory_;
};
#endif

}  // namespace

std::vector<std::string> other_names() {
  std::vector<std::string> names{"std::map"};
#if defined(DYNAMICFS_BENCH_LMDB)
  names.push_back("LMDB");
#endif
#if defined(DYNAMICFS_BENCH_ROCKSDB)
  names.push_back("RocksDB");
#endif
#if defined(DYNAMICFS_BENCH_SQLITE)
  names.push_back("SQLite");
#endif
  return names;
}

std::vector<std::string> absent_names() {
  std::vector<std::string> names;
#if !defined(DYNAMICFS_BENCH_LMDB)
  names.push_back("LMDB (liblmdb-dev)");
#endif
#if !defined(DYNAMICFS_BENCH_ROCKSDB)
  names.push_back("RocksDB (librocksdb-dev)");
#endif
#if !defined(DYNAMICFS_BENCH_SQLITE)
  names.push_back("SQLite (libsqlite3-dev)");
#endif
  return names;
}

std::unique_ptr<Other> make_other(const std::string& name,
                                  const std::function<void(const EachExtent&)>& each) {
#if defined(DYNAMICFS_BENCH_LMDB)
  if (name == "LMDB") return std::make_unique<Lmdb>(each);
#endif
#if defined(DYNAMICFS_BENCH_ROCKSDB)
  if (name == "RocksDB") return std::make_unique<RocksDb>(each);
#endif
#if defined(DYNAMICFS_BENCH_SQLITE)
  if (name == "SQLite") return std::make_unique<Sqlite>(each);
#endif
  if (name == "std::map") return std::make_unique<StdMap>(each);
  throw std::runtime_error("no such store: " + name);
}

}  // namespace dynamicfs::bench
