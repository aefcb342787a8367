// The door between the command and the daemon: one Unix socket per pool, one JSON object per line.
//
//   {"command": "status"}     {"ok": true, "status": {...}}
//   {"command": "hello"}      {"ok": true, "pool": ..., "pid": ..., "mountpoint": ..., "disks":
//   [...]}
//   {"command": "sync"}       {"ok": true} when everything done before is durable
//   {"command": "scrub_start"} {"ok": true}; also scrub_pause, scrub_resume, and scrub_cancel, which
//                             answers when the scrub has ended
//   {"command": "scrub_status"} {"ok": true, "scrub": {...}}
//   {"command": "disk_add", "path": ..., "size": N, "force": B, "spare": B}  {"ok": true, "disk": ID}; path is absolute,
//                             size is there if it matters
//   {"command": "disk_remove", "disk": ID or path} {"ok": true} when it has begun; also disk_keep
//   {"command": "disk_offline", "disk": ID or path} {"ok": true} when it is closed
//   {"command": "disk_online", "path": ...} {"ok": true, "disk": ID}
//   {"command": "rebalance_start"} {"ok": true}; also rebalance_stop, rebuild_pause, rebuild_resume
//   {"command": "shutdown"}   {"ok": true, "pid": ...} at once; the daemon unmounts and exits
//   {"command": "await_exit"} {"ok": true, "pid": ...} at once; like shutdown without the asking
//
// After the last two the connection stays open; the daemon's last words on it are
// {"finished": true, "error": "", "left_behind": [...]} when everything is on disk; the list names disks that
// do not answer, for which the kernel may keep the process. A refusal is {"ok": false, "error": "..."}.
//
// Who may ask: root and the user the daemon runs as, by the kernel's word (SO_PEERCRED).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/mutex.hpp"
#include "base/unique_fd.hpp"
#include "base/uuid.hpp"
#include "fs/refusal.hpp"

namespace dynamicfs::fs {

using Json = nlohmann::ordered_json;

// With the flags of mount(2) behind it, in decimal.
inline constexpr std::string_view kAtimeCommand = "atime_of_flags_";

// Where a daemon of this user puts its socket: /run/dynamicfs for root, $XDG_RUNTIME_DIR/dynamicfs
// for others, or /tmp/dynamicfs-UID where there is no such.
std::string control_directory();
// kPermission: it would be in a directory that is not this user's alone, as XDG_RUNTIME_DIR of another
// user is that sudo or su have kept.
Outcome<void> check_control_directory();

// The answer to one request, given once, from any thread and at any time.
class ControlReply {
 public:
  explicit ControlReply(UniqueFd connection) : connection_(std::move(connection)) {}
  ControlReply(ControlReply&&) = default;
  ControlReply& operator=(ControlReply&&) = default;

  void send(const Json& answer);
  void refuse(const std::string& error) { send({{"ok", false}, {"error", error}}); }
  void refuse(const Refusal& why);
  UniqueFd take_connection() { return std::move(connection_); }

 private:
  UniqueFd connection_;
};

class ControlServer {
 public:
  // Called on the server's thread; may keep the reply and answer later.
  using Handler = std::function<void(const Json& request, ControlReply reply)>;

  // Refuses when a living daemon has this pool's socket; one that a dead daemon left is replaced.
  static Outcome<std::unique_ptr<ControlServer>> start(const Uuid& pool, Handler handler);
  ~ControlServer();

  const std::string& path() const { return path_; }
  // No handler runs any more after this; the socket's name is gone.
  void stop();
  // Keeps a connection for the last words.
  void keep(UniqueFd connection);
  void say_last_words(const std::string& error, const std::vector<std::string>& left_behind);

 private:
  ControlServer(std::string path, UniqueFd listener, UniqueFd stop_event, Handler handler);
  void serve();

  const std::string path_;
  const UniqueFd listener_;
  const UniqueFd stop_event_;
  const Handler handler_;
  Mutex mutex_;
  std::vector<UniqueFd> kept_ DFS_GUARDED_BY(mutex_);
  std::thread thread_;
};

// The command's side.

struct RunningDaemon {
  std::string socket;
  std::string pool;
  std::string label;
  pid_t pid = 0;
  std::string mountpoint;
  std::string device;  // of the mount: "0:45"
  std::vector<std::string> disks;
};
struct RunningDaemons {
  std::vector<RunningDaemon> answering;
  bool denied = false;  // there are some we may not ask
  bool silent = false;  // there are some that take our question and do not answer
};
RunningDaemons running_daemons();

// A question and its answer, over one connection. kFailed with the daemon's words, or when it has
// closed the connection or not answered in time.
class ControlClient {
 public:
  using Patience = std::optional<std::chrono::milliseconds>;  // none: for ever

  static Outcome<ControlClient> connect(const std::string& socket);
  // Refused with kFailed when the daemon is silent for that long, with kNotMounted when it has ended.
  Outcome<Json> ask(const std::string& command, Patience patience = {});
  // With what belongs to the command.
  Outcome<Json> ask_with(const Json& request, Patience patience = {});
  Outcome<Json> next_line(Patience patience = {});
  // For poll(2).
  int fd() const { return connection_.get(); }

 private:
  explicit ControlClient(UniqueFd connection) : connection_(std::move(connection)) {}
  UniqueFd connection_;
  std::string received_;
};

}  // namespace dynamicfs::fs
