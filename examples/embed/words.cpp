// words.cpp: how many different words some texts have, counted by a Lua function, from C++17.
//
//     c++ -std=c++17 words.cpp $(pkg-config --cflags --libs tidepool) -o words
//
// prints: 4 words, most often: the (2)
// prints: 3 words, most often: a (3)
// prints: not a text: it has no words
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <tidepool.h>

namespace {

struct Close {
    void operator()(tp_host *host) const { tp_host_close(host); }
    void operator()(tp_map *map) const { tp_map_close(map); }
};
using Host = std::unique_ptr<tp_host, Close>;
using Map = std::unique_ptr<tp_map, Close>;

// Throws what went wrong.
void check(int rc, const tp_error &err)
{
    if (rc < 0)
        throw std::runtime_error(err.message);
}

Host open_host()
{
    tp_error err{};
    tp_host *host;
    check(tp_host_open(&host, nullptr, &err), err);
    return Host(host);
}

const char count_words[] = R"(
    return function(text)
      local counts, n, most = {}, 0, nil
      for word in text:gmatch "%a+" do
        if not counts[word] then n = n + 1 end
        counts[word] = (counts[word] or 0) + 1
        if not most or counts[word] > counts[most] then most = word end
      end
      if n == 0 then error("not a text: it has no words", 0) end
      return { words = n, most = most, times = counts[most] }
    end
)";

void run()
{
    tp_error err{};
    const Host host = open_host();
    tp_function *count;
    check(tp_function_from_lua(&count, host.get(), "count", count_words, nullptr, &err), err);

    const std::vector<std::string> texts{ "the cat and the dog", "a b a c a", "1 2 3" };
    std::vector<tp_span> inputs;
    for (const std::string &text : texts)
        inputs.push_back({ text.data(), text.size() });

    // Failures come among the results instead of ending the map.
    tp_option_list options = tp_no_options();
    tp_option_boolean(&options, "return_exceptions", true);
    tp_map *raw;
    check(tp_map_bytes(&raw, count, inputs.data(), inputs.size(), tp_option_table(&options), &err),
          err);
    const Map map(raw);

    tp_result result;
    tp_next status;
    while ((status = tp_map_next(map.get(), &result, &err)) == TP_NEXT_RESULT) {
        if (result.failure) {
            std::printf("%s\n", result.failure->message);
            continue;
        }
        const tp_value &counted = result.values[0];
        std::printf("%g words, most often: %s (%g)\n", tp_value_field(&counted, "words")->as.number,
                    tp_value_field(&counted, "most")->as.bytes,
                    tp_value_field(&counted, "times")->as.number);
    }
    check(status, err);
}

} // namespace

int main()
{
    try {
        run();
    } catch (const std::exception &e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
}
