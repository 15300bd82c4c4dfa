// All operators under load: from many threads at once, from threads that end, as the program ends,
// and with every allocation of the library failing in its turn.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <link.h>

#include <atomic>
#include <cfenv>
#include <cstdlib>
#include <functional>
#include <future>
#include <latch>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "torchquant.h"

namespace {

// What the library asks operator new for. `failing` is how many of its allocations still succeed
// before one fails; none fails where it is negative.
std::atomic<int64_t> failing{-1};
std::atomic<bool> has_failed{false};

struct Addresses {
  uintptr_t begin = 0, end = 0;
};

int find_library(dl_phdr_info* info, size_t, void* found) {
  if (std::string(info->dlpi_name).find("libtorchquant.so") == std::string::npos) return 0;
  Addresses& addresses = *static_cast<Addresses*>(found);
  addresses.begin = info->dlpi_addr;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& part = info->dlpi_phdr[i];
    if (part.p_type != PT_LOAD) continue;
    addresses.end =
        std::max<uintptr_t>(addresses.end, info->dlpi_addr + part.p_vaddr + part.p_memsz);
  }
  return 1;
}

Addresses library;  // found before anything may fail

[[maybe_unused]] void* allocate(size_t size, void* caller) {
  const auto address = reinterpret_cast<uintptr_t>(caller);
  const bool is_ours = library.begin <= address && address < library.end;
  if (is_ours && failing.load() >= 0 && failing.fetch_sub(1) == 0) {
    has_failed = true;
    throw std::bad_alloc();
  }
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// ThreadSanitizer brings operator new itself, and lets no other be linked.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ALLOCATIONS_CANNOT_FAIL
#endif
#endif

#if !defined(ALLOCATIONS_CANNOT_FAIL)
void* operator new(size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new[](size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size == 0 ? 1 : size);  // whoever asks like this goes on without
}
void* operator new[](size_t size, const std::nothrow_t&) noexcept {
  return std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace {

using at::Tensor;
using Results = std::vector<Tensor>;

struct Call {
  std::string name;
  std::function<Results()> run;
};

Results list(const Tensor& one) { return {one}; }
Results list(const std::tuple<Tensor, Tensor>& two) { return {std::get<0>(two), std::get<1>(two)}; }
Results list(const std::tuple<Tensor, Tensor, Tensor>& three) {
  return {std::get<0>(three), std::get<1>(three), std::get<2>(three)};
}

Results observed(const Tensor& x) {
  Tensor counts = at::zeros({32768}, at::kLong), range = at::tensor({INFINITY, -INFINITY});
  torchquant::histogram_observe_(counts, range, x);
  return {counts, range};
}

Tensor integers(int64_t low, int64_t high, at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randint(low, high, shape, at::kInt).to(dtype);
}

Tensor scales(at::IntArrayRef shape) { return at::rand(shape) + 0.01; }
Tensor zeros_of(at::IntArrayRef shape) { return integers(-9, 9, shape, at::kInt); }

// An input's values in each kind of order that memory may hold them: as they are, in columns, and
// in short rows that lie apart.
std::vector<std::pair<std::string, Tensor>> layouts() {
  const Tensor x = at::randn({320, 480});
  return {
      {"rows", x},
      {"columns", x.t().contiguous().t()},
      {"short rows",
       at::randn({3200, 64}).slice(1, 0, 48).reshape({-1, 48}).as_strided({2400, 48}, {64, 1})}};
}

// One scale for each run of an input: of the tensor, of either axis, of groups and of rows.
void add_grained(std::vector<Call>& calls, const std::string& kind, const Tensor& x) {
  using namespace torchquant;
  const int64_t rows = x.size(0), columns = x.size(1), group = 7;
  const int64_t groups = (columns + group - 1) / group;
  const Tensor one = at::scalar_tensor(0.037f), zero = at::scalar_tensor(3, at::kInt);
  const auto add = [&](const std::string& name, std::function<Results()> run) {
    calls.push_back({name + ", " + kind, std::move(run)});
  };
  const Tensor q = quantize_per_tensor(x, one, zero, -128, 127, at::kChar);
  add("per_tensor", [=] { return list(choose_qparams_per_tensor(x, 0, 255, false)); });
  add("per_token", [=] { return list(choose_qparams_per_token(x, 0, 255, false)); });
  add("per_group", [=] { return list(choose_qparams_per_group(x, group, 0, 255, false)); });
  add("quantize", [=] { return list(quantize_per_tensor(x, one, zero, 0, 255, at::kByte)); });
  add("dequantize", [=] { return list(dequantize_per_tensor(q, one, zero)); });
  add("fake", [=] { return list(fake_quantize_per_tensor(x, one, zero, 0, 255)); });
  add("dynamic", [=] { return list(quantize_dynamic_per_tensor(x, 0, 255, false, at::kByte)); });
  add("by token", [=] { return list(quantize_dynamic_per_token(x, 0, 255, false, at::kByte)); });
  add("by group",
      [=] { return list(quantize_dynamic_per_group(x, group, 0, 255, false, at::kByte)); });
  add("error", [=] { return list(quantization_error(x, at::relu(x))); });
  add("observe", [=] { return observed(x); });
  const Tensor of_rows = scales({rows, 1}), zero_of_rows = zeros_of({rows, 1});
  const Tensor of_groups = scales({rows, groups}), zero_of_groups = zeros_of({rows, groups});
  add("quantize by token",
      [=] { return list(quantize_per_token(x, of_rows, zero_of_rows, 0, 255, at::kByte)); });
  add("quantize by group", [=] {
    return list(quantize_per_group(x, of_groups, zero_of_groups, group, 0, 255, at::kByte));
  });
  add("dequantize by token", [=] { return list(dequantize_per_token(q, of_rows, zero_of_rows)); });
  add("dequantize by group",
      [=] { return list(dequantize_per_group(q, of_groups, zero_of_groups, group)); });
  for (const int64_t axis : {0, 1}) {
    const Tensor scale = scales({x.size(axis)}), zero_point = zeros_of({x.size(axis)});
    const std::string by = " axis " + std::to_string(axis);
    add("choose" + by, [=] { return list(choose_qparams_per_channel(x, axis, 0, 255, false)); });
    add("quantize" + by,
        [=] { return list(quantize_per_channel(x, scale, zero_point, axis, 0, 255, at::kByte)); });
    add("dequantize" + by,
        [=] { return list(dequantize_per_channel(q, scale, zero_point, axis)); });
    add("fake" + by,
        [=] { return list(fake_quantize_per_channel(x, scale, zero_point, axis, 0, 255)); });
    add("fake backward" + by, [=] {
      return list(fake_quantize_per_channel_backward(x, x, scale, zero_point, axis, 0, 255, true));
    });
  }
}

void add_products(std::vector<Call>& calls) {
  using namespace torchquant;
  const auto add = [&](const std::string& name, std::function<Results()> run) {
    calls.push_back({name, std::move(run)});
  };
  const Tensor weight = integers(-128, 128, {270, 516}, at::kChar), packed = pack_weight(weight);
  const Tensor sums = weight.sum(1, false, at::kInt), scale = scales({270}),
               bias = at::randn({270});
  const Tensor one = at::scalar_tensor(0.037f), zero = at::scalar_tensor(131, at::kInt);
  for (const int64_t rows : {1, 3, 260}) {
    const Tensor x = at::randn({rows, 516}), a = integers(-128, 128, {rows, 516}, at::kChar);
    const std::string of = " of " + std::to_string(rows);
    add("linear_dynamic" + of,
        [=] { return list(linear_dynamic(x, packed, scale, sums, bias, "relu")); });
    add("linear_static" + of,
        [=] { return list(linear_static(x, one, zero, packed, scale, sums, bias)); });
    add("int8_matmul" + of, [=] { return list(int8_matmul(a, weight.t())); });
    add("int8_matmul, rows dense" + of,
        [=] { return list(int8_matmul(a, weight.t().contiguous())); });
    add("int8_matmul, uint8" + of,
        [=] { return list(int8_matmul(a, weight.t().contiguous().view(at::kByte))); });
    add("int8_matmul_packed" + of, [=] { return list(int8_matmul_packed(a, packed, 270)); });
  }
  add("pack_weight", [=] { return list(pack_weight(weight)); });
  add("unpack_weight", [=] { return list(unpack_weight(packed, 270, 516)); });
  add("pack_bits", [=] { return list(pack_bits(weight.bitwise_right_shift(4), 4)); });
  add("unpack_bits", [=] { return list(unpack_bits(weight.view(at::kByte), 4, 1032, at::kChar)); });
}

std::vector<Call> all_calls() {
  at::manual_seed(0);
  std::vector<Call> calls;
  for (const auto& [kind, x] : layouts()) add_grained(calls, kind, x);
  add_products(calls);
  const Results state = observed(at::randn({1000}));
  for (const char* method : {"minmax", "percentile", "mse", "entropy"}) {
    calls.push_back({method, [=] {
                       return list(torchquant::histogram_qparams(state[0], state[1], 0, 255, false,
                                                                 method, 99.9));
                     }});
  }
  return calls;
}

bool equal(const Results& one, const Results& other) {
  bool same = one.size() == other.size();
  for (size_t i = 0; same && i < one.size(); ++i) same = one[i].equal(other[i]);
  return same;
}

std::vector<Results> all_results(const std::vector<Call>& calls) {
  std::vector<Results> results;
  for (const Call& call : calls) results.push_back(call.run());
  return results;
}

// With what one thread computes, for all tests to compare with.
class Load : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dl_iterate_phdr(find_library, &library);
    ASSERT_LT(library.begin, library.end);
    at::set_num_threads(1);
    calls = all_calls();
    expected = all_results(calls);
    at::set_num_threads(2);
  }
  static void TearDownTestSuite() { expected.clear(), calls.clear(); }

  // The name of the first call that gives something else; none where all are right.
  static std::string first_wrong() {
    for (size_t i = 0; i < calls.size(); ++i) {
      if (!equal(calls[i].run(), expected[i])) return calls[i].name;
    }
    return "";
  }

  static inline std::vector<Call> calls;
  static inline std::vector<Results> expected;
};

TEST_F(Load, SixteenThreadsAtOnceAgreeWithOne) {
  constexpr int kThreads = 16;
  std::latch start(kThreads);
  std::vector<std::future<std::string>> wrong;
  for (int i = 0; i < kThreads; ++i) {
    wrong.push_back(std::async(std::launch::async, [&] {
      start.arrive_and_wait();
      return first_wrong();
    }));
  }
  for (auto& one : wrong) EXPECT_EQ(one.get(), "");
}

// The inter-op pool, whose tasks share out work over the intra-op one.
TEST_F(Load, TasksOfTheInterOpPoolAgreeWithOneThread) {
  constexpr int kTasks = 16;
  std::vector<std::promise<std::string>> wrong(kTasks);
  for (auto& one : wrong) at::launch([&one] { one.set_value(first_wrong()); });
  for (auto& one : wrong) EXPECT_EQ(one.get_future().get(), "");
}

// Operators within a parallel region of the caller's run serially there.
TEST_F(Load, CallsWithinAParallelRegionAgreeWithOneThread) {
  std::vector<Results> results(calls.size());
  at::parallel_for(0, static_cast<int64_t>(calls.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) results[i] = calls[i].run();
  });
  for (size_t i = 0; i < calls.size(); ++i) EXPECT_TRUE(equal(results[i], expected[i]));
}

TEST_F(Load, ChangingTheNumberOfThreadsChangesNothing) {
  for (const int threads : {1, 2, 3, 4}) {
    at::set_num_threads(threads);
    EXPECT_EQ(first_wrong(), "") << threads << " threads";
  }
  at::set_num_threads(2);
}

TEST_F(Load, ThreadsThatEndLeaveNothingBehind) {
  for (int i = 0; i < 4; ++i) {
    std::string wrong;
    std::thread([&] { wrong = first_wrong(); }).join();
    EXPECT_EQ(wrong, "");
  }
}

TEST_F(Load, RoundingOfTheCallersChangesNothing) {
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    std::vector<Results> results;
    std::fesetround(mode);
    for (const Call& call : calls) results.push_back(call.run());
    const int after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(after, mode);
    for (size_t i = 0; i < calls.size(); ++i) {
      EXPECT_TRUE(equal(results[i], expected[i])) << calls[i].name;
    }
  }
}

// Runs the call with its `count`-th allocation failing, in a new thread, whose own scratch and
// whose helpers' is then new too. Whether one failed at all.
bool fails_well(const Call& call, int64_t count) {
  std::string seen = "nothing was thrown";
  std::thread([&] {
    const c10::InferenceMode guard;  // the nodes of autograd are not ours
    has_failed = false;
    failing = count;
    try {
      call.run();
    } catch (const std::bad_alloc&) {
      seen = "bad_alloc";
    } catch (const std::exception& error) {
      seen = error.what();
    }
    failing = -1;
  }).join();
  EXPECT_EQ(seen, has_failed ? "bad_alloc" : "nothing was thrown") << call.name;
  return has_failed;
}

// Each of the first allocations, and of the thousands that some calls make ever fewer.
int64_t later(int64_t count) { return count + 1 + count / 8; }

TEST_F(Load, EveryAllocationThatFailsIsThrownAndSpoilsNothing) {
#if defined(ALLOCATIONS_CANNOT_FAIL)
  GTEST_SKIP() << "operator new is ThreadSanitizer's";
#endif
  int64_t failures = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    for (int64_t count = 0; fails_well(calls[i], count); count = later(count)) {
      ++failures;
      EXPECT_TRUE(equal(calls[i].run(), expected[i])) << calls[i].name;
    }
  }
  EXPECT_GT(failures, 100);
}

// In the thread whose call failed, with what that left in its scratch.
TEST_F(Load, AThreadGoesOnAfterAFailure) {
#if defined(ALLOCATIONS_CANNOT_FAIL)
  GTEST_SKIP() << "operator new is ThreadSanitizer's";
#endif
  std::thread([] {
    const c10::InferenceMode guard;
    for (size_t i = 0; i < calls.size(); ++i) {
      bool is_thrown = true;
      for (int64_t count = 0; is_thrown; count = later(count)) {
        is_thrown = false;
        failing = count;
        try {
          calls[i].run();
        } catch (const std::bad_alloc&) {
          is_thrown = true;
        }
        failing = -1;
        EXPECT_TRUE(equal(calls[i].run(), expected[i])) << calls[i].name;
      }
    }
  }).join();
}

TEST(LoadDeathTest, OperatorsRunWhileTheProgramEnds) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto end = [] {
    static const Call call = {"linear", [] {
                                const Tensor weight = at::ones({16, 40}, at::kChar);
                                return list(torchquant::int8_matmul(weight, weight.t()));
                              }};
    call.run();
    std::atexit([] {
      const bool is_right = call.run()[0].eq(40).all().item<bool>();
      std::_Exit(is_right ? 7 : 8);
    });
    std::exit(0);
  };
  EXPECT_EXIT(end(), testing::ExitedWithCode(7), "");
}

}  // namespace
