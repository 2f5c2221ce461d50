--- A C library whose bad input is fatal: the C library's own regular expressions, with patterns
-- that come from users.
--
--   tidepool run examples/regex.lua
--
-- Some patterns end the process that compiles them (its stack overflows), some take for ever, and
-- memory on their way. In worker processes each costs its own input, with its cause, and the others
-- have their answers.
--
-- prints: a+b                       3 of 4 lines match
-- prints: ^[0-9]+$                  1 of 4 lines match
-- prints: (                         error: Unmatched ( or...
-- prints: ((((((((((((((((((((((... crash: worker process was killed by SIGSEGV during input 4
-- prints: ((a{1,255}){1,255}){1,... timeout: input 5 ran for more than 1 s
-- prints: b$                        2 of 4 lines match

local tidepool = require "tidepool"

local app = tidepool.App("regex", { timeout = 1, memory = "4G", crash_retries = 0 })

local lines = { "aaab", "ab", "12345", "baab baaa" }

local matches = app:func(function(pattern)
  local ffi = require "ffi"
  if not pcall(ffi.typeof, "regex_buffer") then
    ffi.cdef [[
      typedef struct { char bytes[256]; } regex_buffer;   /* at least as large as a regex_t */
      int regcomp(regex_buffer *, const char *, int);
      int regexec(const regex_buffer *, const char *, size_t, void *, int);
      size_t regerror(int, const regex_buffer *, char *, size_t);
      void regfree(regex_buffer *);
    ]]
  end
  local regex, EXTENDED = ffi.new "regex_buffer", 1
  local wrong = ffi.C.regcomp(regex, pattern, EXTENDED)
  if wrong ~= 0 then
    local text = ffi.new "char[200]"
    ffi.C.regerror(wrong, regex, text, 200)
    error(ffi.string(text), 0)
  end
  local n = 0
  for _, line in ipairs(lines) do
    if ffi.C.regexec(regex, line, 0, nil, 0) == 0 then n = n + 1 end
  end
  ffi.C.regfree(regex)
  return n
end)

app:main(function()
  local patterns = {
    "a+b", "^[0-9]+$", "(", ("("):rep(1e6) .. (")"):rep(1e6), "((a{1,255}){1,255}){1,255}", "b$",
  }
  for i, n in matches:map(patterns, { return_exceptions = true }) do
    local pattern = #patterns[i] > 24 and patterns[i]:sub(1, 22) .. "..." or patterns[i]
    local answer = tidepool.is_failure(n) and n.kind .. ": " .. n.message or ("%d of %d lines match"):format(n, #lines)
    print(("%-25s %s"):format(pattern, answer))
  end
end)
