#include "base/result.hpp"

namespace dynamicfs {

std::string_view code_name(Code code) {
  switch (code) {
    case Code::kOk: return "ok";
    case Code::kDiskRead: return "disk read";
    case Code::kDiskWrite: return "disk write";
    case Code::kDiskFlush: return "disk flush";
    case Code::kDiskGone: return "disk gone";
    case Code::kDiskHung: return "disk does not answer";
    case Code::kDiskOffline: return "disk was taken offline";
    case Code::kDiskRange: return "disk range";
    case Code::kDiskOpen: return "disk open";
    case Code::kFormatMagic: return "format magic";
    case Code::kFormatVersion: return "format version";
    case Code::kFormatInvalid: return "format invalid";
    case Code::kChecksum: return "checksum";
    case Code::kCorrupt: return "corrupt";
    case Code::kJournalFull: return "journal full";
    case Code::kJournalStopped: return "journal stopped";
    case Code::kNotInPool: return "not in pool";
    case Code::kPoolBusy: return "pool busy";
    case Code::kPoolExists: return "pool exists";
    case Code::kDiskMissing: return "disk missing";
    case Code::kTooFewDisks: return "too few disks";
    case Code::kSplitBrain: return "split brain";
    case Code::kReadOnly: return "read only";
    case Code::kNoSpace: return "no space";
    case Code::kNotFound: return "not found";
    case Code::kExists: return "exists";
    case Code::kNotDirectory: return "not directory";
    case Code::kIsDirectory: return "is directory";
    case Code::kNotEmpty: return "not empty";
    case Code::kNameTooLong: return "name too long";
    case Code::kInvalid: return "invalid";
    case Code::kPermission: return "permission";
    case Code::kAccess: return "access";
    case Code::kTooManyLinks: return "too many links";
    case Code::kFileTooBig: return "file too big";
    case Code::kNoAttribute: return "no attribute";
    case Code::kStale: return "stale";
    case Code::kNotSupported: return "not supported";
    case Code::kRange: return "range";
    case Code::kCrossDevice: return "cross device";
    case Code::kNoMemory: return "no memory";
    case Code::kBusy: return "busy";
    case Code::kNoDevice: return "no device";
    case Code::kSystem: return "system";
    case Code::kUsage: return "usage";
    case Code::kShutdown: return "shutdown";
  }
  return "unknown";
}

}  // namespace dynamicfs
