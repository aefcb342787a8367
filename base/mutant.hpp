// Defects on purpose, to see that the tests notice: each breaks one promise in one place.
//
// Only a build with -Dmutants=true has them (the sanitizer builds of tools/test do), and only a test
// that asks for one gets it. Elsewhere mutated() is false at compile time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace dynamicfs {

enum class Mutant : std::uint8_t {
  kNone,
  kSkipFlush,     // a commit does not flush the disks that have its data
  kAckEarly,      // sync() does not wait
  kReuseEarly,    // freed blocks are allocated before the record that freed them is covered
  kAcceptTorn,    // a batch counts although its checksum is wrong
  kBelieveTail,   // the last batch counts although its data may not be there
  kKeepTail,      // ... or is not written anew when its end was dropped
  kSkipRunFlush,  // a checkpoint counts before its run and data are on stable storage
  kTrimEarly,     // the log is given back before the checkpoint counts
  kSkipCopies,    // ... and its records count, but copies of their data that are missing stay so
  kSkipMember,    // a batch is acknowledged although a member does not have it
  kParityBeside,  // a record reaches the log before the parity of its rows
  kForgetShared,  // a run does not say which blocks are shared
  kKeepShared,    // a mapping that recovery takes away keeps its reference to a shared block
  kCount,
};
inline constexpr std::array<const char*, static_cast<std::size_t>(Mutant::kCount)> kMutantNames = {
    "none",         "skip_flush",    "ack_early",      "reuse_early", "accept_torn",
    "believe_tail", "keep_tail",     "skip_run_flush", "trim_early",  "skip_copies",
    "skip_member",  "parity_beside", "forget_shared",  "keep_shared"};

#ifdef DYNAMICFS_MUTANTS
inline Mutant active_mutant = Mutant::kNone;  // set while nothing else runs
inline bool mutated(Mutant mutant) { return active_mutant == mutant; }
#else
constexpr bool mutated(Mutant) { return false; }
#endif

}  // namespace dynamicfs
