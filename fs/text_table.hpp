// Columns, bars and names of plain text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dynamicfs::fs {

// Columns as wide as their widest cell; numbers to the right.
class Table {
 public:
  struct Column {
    std::string title;
    bool right = false;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string print() const;

 private:
  std::string print_row(const std::vector<std::string>& row,
                        const std::vector<std::size_t>& widths) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// A file name as a terminal may have it: control characters as ls -b writes them ("\033"), the
// backslash doubled, everything else as it is.
std::string printable(std::string_view name);

// "[###-------]", `cells` wide inside. Something is never drawn as nothing.
std::string bar(std::uint64_t part, std::uint64_t whole, std::uint64_t cells);

}  // namespace dynamicfs::fs
