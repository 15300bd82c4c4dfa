#include "new_file.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <utility>

namespace torchquant {
namespace {

std::string last_reason() { return std::generic_category().message(errno); }

// Unlike the process's number alone, it differs from thread to thread.
std::string next_name() {
  static std::atomic<uint64_t> count{0};
  return ".torchquant-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
}

void folder_to_disk(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

NewFile::NewFile(const std::string& path) : shown_(path) {
  std::error_code error;
  place_ = std::filesystem::weakly_canonical(path, error);  // a link stays one
  if (error) refuse(error.message());
  const auto kind = std::filesystem::status(place_, error).type();
  TORCH_CHECK(kind == std::filesystem::file_type::regular ||
                  kind == std::filesystem::file_type::not_found ||
                  kind == std::filesystem::file_type::none,
              path, " must be a file, but is a folder, a device or a pipe: name a new file");
  create();
}

NewFile::~NewFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!beside_.empty()) ::unlink(beside_.c_str());
}

void NewFile::refuse(const std::string& reason) const {
  TORCH_CHECK(false, shown_, " cannot be written: ", reason);
}

void NewFile::create() {
  do {  // what a killed process of the same number left is not ours
    beside_ = place_.parent_path() / next_name();
    descriptor_ = ::open(beside_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) {
    beside_.clear();
    refuse(last_reason());
  }
}

void NewFile::write(const void* bytes, std::size_t count) {
  const char* at = static_cast<const char*>(bytes);
  while (count > 0) {
    const ssize_t written = ::write(descriptor_, at, count);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) refuse(last_reason());
    at += written;
    count -= static_cast<std::size_t>(written);
  }
}

void NewFile::take_place() {
  struct stat old{};
  if (::stat(place_.c_str(), &old) == 0 && ::fchmod(descriptor_, old.st_mode & 07777) != 0) {
    refuse(last_reason());
  }
  // Or a crash of the machine could leave the new name with no contents.
  if (::fsync(descriptor_) != 0) refuse(last_reason());
  if (::close(std::exchange(descriptor_, -1)) != 0) refuse(last_reason());
  if (::rename(beside_.c_str(), place_.c_str()) != 0) refuse(last_reason());
  beside_.clear();
  // Or such a crash could bring back the old file. Not every file system can, and it is no failure
  // to write: the file is in its place by now.
  folder_to_disk(place_.parent_path());
}

}  // namespace torchquant
