// A file that takes its place whole, or leaves what was there.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace torchquant {

// Written under a name of its own beside its place, then renamed. Each function throws c10::Error,
// naming the path and the reason. A process that is killed leaves a file `.torchquant-*`.
class NewFile {
 public:
  explicit NewFile(const std::string& path);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  void write(const void* bytes, std::size_t count);
  void take_place();

 private:
  [[noreturn]] void refuse(const std::string& reason) const;
  void create();

  std::string shown_;
  std::filesystem::path place_, beside_;
  int descriptor_ = -1;
};

}  // namespace torchquant
