// The status of pools as text for Prometheus: exposition format 0.0.4.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/control.hpp"

namespace dynamicfs::fs {

// Samples in families: all of one name together, behind its HELP and TYPE.
class Exposition {
 public:
  using Labels = std::vector<std::pair<std::string_view, std::string>>;
  struct Family {
    std::string_view name{};
    std::string_view type{};  // "counter", "gauge", "histogram"
    std::string_view help{};
  };

  // The first sample of a family decides where it stands.
  void add(const Family& family, const Labels& labels, double value);
  // `histogram` as histogram_json() makes it; `unit` is what one of its units is in the unit of the
  // name. Buckets from 2^first on, so that a family has the same ones for ever.
  struct Buckets {
    unsigned first = 0, last = 0;
    double unit = 1;
  };
  void add_histogram(const Family& family, const Labels& labels, const Json& histogram,
                     const Buckets& buckets);
  std::string text() const;

 private:
  std::string& samples_of(const Family& family);

  std::vector<std::pair<std::string, std::string>> families_;  // head, samples
  std::map<std::string, std::size_t, std::less<>> places_;
};

// All metrics of these answers of daemons. One without "metrics", of a mount whose daemon does not
// answer, is there as dynamicfs_up 0.
std::string prometheus_text(std::span<const Json> pools);

}  // namespace dynamicfs::fs
