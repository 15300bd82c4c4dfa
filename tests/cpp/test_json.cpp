// JSON: what the grammar has is read, and nothing else.
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "model/json.h"

namespace {

using torchquant::json::Array;
using torchquant::json::Object;
using torchquant::json::parse;
using torchquant::json::to_text;
using torchquant::json::Value;

TEST(Json, ReadsEveryKindOfValue) {
  const Value value = parse(R"( {"a": [1, -2.5e1, true, false, null, "x"], "b": {}, "c": []} )");
  const auto* object = value.get<Object>();
  ASSERT_NE(object, nullptr);
  const auto* array = object->at("a").get<Array>();
  ASSERT_NE(array, nullptr);
  ASSERT_EQ(array->size(), 6u);
  EXPECT_EQ(*(*array)[0].get<int64_t>(), 1);
  EXPECT_EQ(*(*array)[1].get<double>(), -25.0);
  EXPECT_TRUE(*(*array)[2].get<bool>());
  EXPECT_FALSE(*(*array)[3].get<bool>());
  EXPECT_TRUE((*array)[4].is_null());
  EXPECT_EQ(*(*array)[5].get<std::string>(), "x");
  EXPECT_TRUE(object->at("b").get<Object>()->empty());
  EXPECT_TRUE(object->at("c").get<Array>()->empty());
}

TEST(Json, ReadsEscapesAndPairsOfSurrogates) {
  const Value value = parse(R"("\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00")");
  EXPECT_EQ(*value.get<std::string>(), "\"\\/\b\f\n\r\tA\u00e9\u20ac\U0001f600");
}

TEST(Json, KeepsTheEndsOfInt64AndMakesDoublesOfWhatIsBeyond) {
  EXPECT_EQ(*parse("9223372036854775807").get<int64_t>(), INT64_MAX);
  EXPECT_EQ(*parse("-9223372036854775808").get<int64_t>(), INT64_MIN);
  EXPECT_EQ(*parse("9223372036854775808").get<double>(), 9223372036854775808.0);
  EXPECT_EQ(*parse("1e3").get<double>(), 1000.0);
  EXPECT_EQ(*parse("0").get<int64_t>(), 0);
}

TEST(Json, RefusesWhatIsNoJson) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "}",
                           "[1,]",
                           "[1 2]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "01",
                           "1.",
                           ".5",
                           "-",
                           "+1",
                           "1e",
                           "1e+",
                           "0x10",
                           "nul",
                           "True",
                           "NaN",
                           "Infinity",
                           "inf",
                           "\"abc",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"a\nb\"",
                           "1 2",
                           "{\"a\":1,\"a\":2}",
                           "1e999",
                           "1e-999",
                           "0.1e-330"}) {
    EXPECT_THROW(parse(text), c10::ValueError) << text;
  }
  EXPECT_THROW(parse(std::string_view("\"\0\"", 3)), c10::ValueError);
}

TEST(Json, TakesUtf8AloneToReadAndToWrite) {
  for (const std::string text : {"\x01", "\x7f", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000",
                                 "\uffff", "\U00010000", "\U0010ffff", "a\u00e9\u20ac\U0001f600"}) {
    const std::string written = to_text(Value(text));
    EXPECT_EQ(*parse(written).get<std::string>(), text);
  }
  for (const std::string text :
       {"\x80", "\xbf\xbf", "\xc3", "\xc3(", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xe2\x82",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
        "\xf8\x88\x80\x80\x80", "\xff", "a\xe9"}) {
    EXPECT_THROW(parse('"' + text + '"'), c10::ValueError);
    EXPECT_THROW(to_text(Value(text)), c10::ValueError);
    EXPECT_THROW(to_text(Object{{text, 1L}}), c10::ValueError);
  }
}

TEST(Json, RefusesDepthBeforeItEndsTheStack) {
  EXPECT_NO_THROW(parse(std::string(60, '[') + std::string(60, ']')));
  EXPECT_THROW(parse(std::string(1'000'000, '[')), c10::ValueError);
}

TEST(Json, RefusesMoreValuesThanMemoryShouldHold) {
  std::string text = "[0";
  while (text.size() < 2 * torchquant::json::kMostValues) text += ",0";
  EXPECT_NO_THROW(torchquant::json::check_amount(text + "]"));
  EXPECT_THROW(parse(text + ",0]"), c10::ValueError);
}

TEST(Json, ShowsNothingThatATerminalObeys) {
  EXPECT_EQ(torchquant::json::printable("a\x1b[2J\x7f\u009b\u202e\u2066\xff\u00e9\n"),
            "a\\u001b[2J\\u007f\\u009b\\u202e\\u2066\\u00ff\u00e9\\u000a");
  EXPECT_EQ(torchquant::json::printable(std::string(300, 'x')), std::string(200, 'x') + "...");
}

TEST(Json, SaysWhereItStopped) {
  try {
    parse("[1, 2, x]");
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "no JSON: expected a value at byte 7");
  }
}

TEST(Json, WritesWhatItReads) {
  for (const char* text : {R"({"a":[1,-2,true,false,null,"x"],"b":{},"c":[],"d":0.1})",
                           R"("\"\\\u0001 \u00e9")", "48.24318152924762", "[]"}) {
    const std::string written = to_text(parse(text));
    EXPECT_EQ(to_text(parse(written)), written);
  }
  EXPECT_EQ(to_text(parse(R"({"b": 1, "a": [0.1, "\n"]})")), R"({"a":[0.1,"\u000a"],"b":1})");
  EXPECT_THROW(to_text(Value(INFINITY)), c10::ValueError);
}

}  // namespace
