--- JSON as tidepool.json reads and writes it: what every reader must accept, what every reader must
-- refuse, and what RFC 8259 leaves open.

local cjson = require "cjson"
local tidepool = require "tidepool"
local json = require "tidepool.json"
local support = require "tests.support"

local contains = support.contains
local null, list, object = json.null, json.list, json.object

local function shows(text)
  return #text > 100 and text:sub(1, 100) .. "..." or text
end

-- Texts that are JSON, the value of each, and the text that it is written as (nil: the same text).
local accepted = {
  -- structure
  { "[]", list {} }, { "{}", {} }, { " [ ] ", list {}, "[]" }, { "\t{\r\n }", {}, "{}" }, { "[[]]", { list {} } }, { "[{}]", { {} } },
  { "[1,2,3]", { 1, 2, 3 } }, { "[ 1 , 2 ]", { 1, 2 }, "[1,2]" }, { '{"a":1}', { a = 1 } }, { ' { "a" : 1 , "b" : 2 } ', { a = 1, b = 2 },
  '{"a":1,"b":2}' },
  { '{"":0}', { [""] = 0 } }, { '{"a":{"b":{"c":[{}]}}}', { a = { b = { c = { {} } } } } }, { '{"a\\u0000b":1}', { ["a\0b"] = 1 } },
  { '{"1":"one"}', { ["1"] = "one" } }, { '[[[[["deep"]]]]]', { { { { { "deep" } } } } } }, { "[1\n]", { 1 }, "[1]" }, { "1 ", 1, "1" },
  { ("["):rep(500) .. ("]"):rep(500), nil },
  -- words
  { "true", true }, { "false", false }, { "null", null }, { "[true,false,null]", { true, false, null } }, { "[null]", { null } },
  { "[1,null,null,2,null]", { 1, null, null, 2, null } }, { '{"a":null}', { a = null } }, { '{"a":null,"b":[]}', { a = null, b = list {} } },
  -- objects whose keys look like a list's
  { '{"n":0}', object { n = 0 } }, { '{"n":2}', object { n = 2 } }, { '{"n":1.5}', object { n = 1.5 } }, { '{"n":"2"}', { n = "2" } },
  { '{"a":1,"n":1}', object { a = 1, n = 1 } },
  -- numbers
  { "0", 0 }, { "-0", -1 / math.huge }, { "[-0.0]", { -1 / math.huge }, "[-0]" },
  { "1", 1 }, { "-1", -1 }, { "123", 123 }, { "0.5", 0.5 }, { "-0.5", -0.5 },
  { "1.0", 1, "1" },
  { "10e2", 1000, "1000" }, { "1E2", 100, "100" }, { "1e+2", 100, "100" }, { "1e-2", 0.01, "0.01" }, { "1.5e3", 1500, "1500" }, { "0e1", 0, "0" },
  { "0e+1", 0, "0" }, { "0.1", 0.1 }, { "20e1", 200, "200" }, { "1.7976931348623157e308", 1.7976931348623157e308, "1.7976931348623157e+308" },
  { "5e-324", 5e-324, "4.9406564584125e-324" }, { "9007199254740991", 9007199254740991 }, { "-9007199254740991", -9007199254740991 },
  { "3.141592653589793", 3.141592653589793 }, { "0.30000000000000004", 0.1 + 0.2 }, { "1000000000000000", 1e15 },
  -- strings
  { '""', "" }, { '"a"', "a" }, { '" "', " " }, { '"ä€😀"', "ä€😀" }, { '"\\u00e4"', "ä", '"ä"' }, { '"\\u20AC"', "€", '"€"' },
  { '"\\ud83d\\ude00"', "😀", '"😀"' }, { '"\\uD83D\\uDE00"', "😀", '"😀"' }, { '"\\udbff\\udfff"', "\244\143\191\191",
  '"\244\143\191\191"' },
  { '"\\u0041\\u0000\\u001f"', "A\0\31", '"A\\u0000\\u001f"' }, { [["\"\\\n\r\t"]], "\"\\\n\r\t" }, { [["\/\b\f"]], "/\b\f", [["/\u0008\u000c"]] },
  { '"\\\\u0041"', "\\u0041" }, { '"\\\\n"', "\\n" }, { '"\127"', "\127", '"\\u007f"' }, { '"\\u007f"', "\127" },
  { '"\226\128\168\226\128\169"', "\226\128\168\226\128\169" },
  { '"\239\191\191"', "\239\191\191" }, { '"\\uFFFF"', "\239\191\191", '"\239\191\191"' }, { '"[1,2]//{}"', "[1,2]//{}" },
  { '"' .. ("x"):rep(100000) .. '"', ("x"):rep(100000) },
}

-- Texts that are none.
local refused = {
  -- structure
  "", " ", "[", "]", "{", "}", "[1", "[1,", "[,1]", "[1,]", "[1,,2]", "[,]", "[1 2]", "[1:2]", "[1}", "{]", "[1]]", "[1]x", "[] []", "1 2",
  "{} {}", "[1];",
  '{"a"}', '{"a":}', '{"a" 1}', '{"a"::1}', '{:1}', "{1:1}", "{a:1}", "{'a':1}", '{"a":1,}', '{"a":1,,"b":2}', '{,"a":1}', '{"a":1 "b":2}', '{"a":1',
  '{"a":"b"', '{"a":1}}', '{"a":1}#', "{null:1}", "{[]:1}", '["a",\n4\n,1,', '[""', '[{}', "[[]", "*", "<.>", "[<null>]", "\\", "[\\]", "''", "['a']",
  '{"a":/*comment*/1}', "/**/[]", "[] // comment", "[1 /**/]", "#", "[\f]", "[\v1]", "\194\160[]", "[\226\129\160]", "\0", "[1]\0", "[\0]",
  "å", "[é]",
  '{"a":1, "b"', "{\"a\":1]", '[1,"', ("["):rep(100000), ('{"a":'):rep(5000), ('[{"":'):rep(50000),
  -- words
  "nul", "nulll", "tru", "truee", "fals", "True", "TRUE", "None", "NULL", "undefined", "[nul", "[tru]", "[fals]", "[nan]", "NaN",
  "Infinity", "-Infinity", "inf", "[-inf]",
  "[true1]", "not",
  -- numbers
  "1.", "-1.", "[1.]", ".5", "-.5", "[.1e1]", "1.e1", "0.e1", "[2.e3]", "+1", "[++1]", "--1", "- 1", "-", "[-]", "-a", "01", "-01", "00",
  "-00", "012", "[-012]", "1e", "1e+", "1E-", "1e1.5",
  "0e", "0E+", "1.0e", "1.0e+", "1ee2", "1e-+2", "1_000", "1,000", "1 000", "0x10", "0X1", "0b1", "[0x1]", "1a", "[1a]", "1.5.2", "9.3e+",
  "1+2", "[1-2]", "\239\188\145", "1f", "1L",
  "1LL", "1i", "0x1p4", "[-2.]", "[0.3e]", "[1e1000e1]", "Infinity1",
  -- strings
  '"', '"a', "a", '"a\\"', '"\\', '"\\x41"', '"\\a"', '"\\v"', '"\\0"', '"\\\'"', '"\\U0041"', '"\\u"', '"\\u1"', '"\\u12"', '"\\u123"',
  '"\\u12g4"', '"\\u 123"', '"\\u+123"', '"\\u-123"',
  '"\\u{41}"', '"\\ud83d\\u"', '"\\uD800\\u1"', '"\\uD834\\x"', '"\\é"', '"a\nb"', '"a\tb"', '"a\rb"', '"a\0b"', '"\1"', '"\31"',
  '["a\nb"]', '{"a\nb":1}', '"a"b', '"a""b"', "[\"a\" 'b']", '["\\"]', '"\\ "',
}

-- What the standard leaves to the reader: true is accepted, false refused, and why.
local open = {
  { "1e999", false },                                                        -- no infinities: what came in can go out again
  { "-1e999", false }, { "[123456789e1000]", false }, { ("9"):rep(400), false },
  { "1e-999", true, 0 }, { "[0.4e-1000]", true, { 0 } },                     -- the nearest number
  { "12345678901234567890", true, 12345678901234567890 },
  { "0.123456789012345678901234567890", true, 0.123456789012345678901234567890 },
  { '"\\ud83d"', false }, { '"\\ude00"', false }, { '"\\ude00\\ud83d"', false }, { '"\\ud83dx"', false }, -- half a character is none
  { '"\\ud83d\\u0041"', false }, { '["\\ud83d\\ud83d"]', false }, { '{"\\udead":1}', false },
  { '"\255"', true, "\255" }, { '"\237\160\128"', true, "\237\160\128" }, { '"\192\175"', true, "\192\175" }, -- bytes stay as they are
  { '"\226\130"', true, "\226\130" },
  { "\239\187\191[]", false }, { "\239\187\191", false },                    -- no byte order mark
  { '{"a":1,"a":2}', true, { a = 2 } }, { '{"a":1,"a":null}', true, { a = null } }, -- the last one counts
  { ("["):rep(1000) .. ("]"):rep(1000), true }, { ("["):rep(1001) .. ("]"):rep(1001), false },
  { "[\0001]", false }, { "[\0]", false },                                   -- UTF-16 is no JSON
}

describe("JSON", function()
  it("is read where it is JSON, and written so that it means the same", function()
    for _, case in ipairs(accepted) do
      local text, value, written = case[1], case[2], case[3] or case[1]
      local fine, got = json.decode(text)
      assert.is_true(fine, ("refused %s: %s"):format(shows(text), tostring(got)))
      if value ~= nil then assert.same({ text, value }, { text, got }) end
      assert.equal(written, json.encode(got))
      local again, same = json.decode(written)
      assert.is_true(again)
      assert.same(got, same)
    end
    local _, zero = json.decode "-0"
    assert.equal(-math.huge, 1 / zero)
  end)

  it("is refused where it is none, with the column", function()
    for _, text in ipairs(refused) do
      local fine, why = json.decode(text)
      assert.is_false(fine, "accepted " .. shows(text))
      assert.truthy(why:find "^no JSON: expected .+ at column %d+$", why)
    end
  end)

  it("is one or the other where the standard leaves it open", function()
    for _, case in ipairs(open) do
      local fine, got = json.decode(case[1])
      assert.same({ shows(case[1]), case[2] }, { shows(case[1]), fine })
      if case[3] then assert.same(case[3], got) end
    end
  end)

  it("is read as cjson reads it, but for what cjson takes that is none", function()
    for _, case in ipairs(accepted) do
      local fine, value = pcall(cjson.decode, "[" .. case[1] .. "]")
      if fine then assert.same({ case[1], value[1] }, { case[1], (select(2, json.decode(case[1]))) }) end
    end
  end)

  it("is written as cjson reads it", function()
    for _, value in ipairs { 1, -0.1, 1e300, 1 / 3, 2 ^ 53, -2 ^ 60, "a\0\"\\\n\127ä", true, { 1, 2, { x = { "y" } } }, { a = 1,
      ["b c"] = "" }, { null, 2 } } do
      assert.same({ value }, cjson.decode(json.encode { value }))
    end
    assert.equal('{"1":"a","3":"b"}', json.encode { "a", [3] = "b" })
    assert.equal("[1,null,3]", json.encode { 1, nil, 3, n = 3 })
    assert.equal("[null,null]", json.encode_results(nil, nil))
    assert.equal("[18446744073709551615]", json.encode { 18446744073709551615ULL })
    assert.equal("[1.5,2]", json.encode(tidepool.array("double", { 1.5, 2 })))
    assert.equal('["\255"]', json.encode { "\255" })
  end)

  it("is read and written anew without a change, whatever it is", function()
    local seed = 1
    local function random(n)
      seed = (seed * 16807) % 2147483647
      return seed % n + 1
    end
    local leaves = { "null", "true", "false", "0", "-0", "12", "0.1", "1e-07", '""', '"n"', '"\\n\\u0000é"', "[]", "{}" }
    local function make(depth)
      local kind = depth > 0 and random(3) or 3
      if kind == 3 then return leaves[random(#leaves)] end
      local parts = {}
      for i = 1, random(4) - 1 do parts[i] = (kind == 1 and ('"%s":'):format(("nabc"):sub(i, i)) or "") .. make(depth - 1) end
      if kind == 1 then table.sort(parts) end
      return (kind == 1 and "{" or "[") .. table.concat(parts, ",") .. (kind == 1 and "}" or "]")
    end
    for _ = 1, 2000 do
      local text = make(5)
      local fine, value = json.decode(text)
      assert.is_true(fine)
      assert.equal(text, json.encode(value))
    end
  end)

  it("says where it stops being JSON", function()
    for text, why in pairs {
      [""] = "a value at column 1", ["[1,]"] = "a value at column 4", ["[1 2]"] = ", or ] at column 4", ["{a:1}"] = "a key in quotes at column 2",
      ['{"a" 1}'] = ": at column 6", ['"a'] = 'a " at the end of the string at column 3', ['"\\x"'] = "an escape like \\n or \\u00e4 at column 2",
      ["01"] = "a number without zeros in front at column 1", ["1."] = "a digit at column 3", ["[1.x]"] = "a digit at column 4",
        ["1e+"] = "a digit at column 4",
      ["nan"] = "a value at column 1", ["1 2"] = "the end at column 3", ["[1,1e999]"] = "a number of at most 1.8e308 at column 4",
      ['"\n"'] = "an escape for a control character at column 2", ['"\\u12"'] = "four hexadecimal digits after \\u at column 2",
      ['"a\\ud83d"'] = "both halves of a surrogate pair at column 3", [("["):rep(2000)] = "at most 1000 levels at column 1001",
    } do
      assert.same({ false, "no JSON: expected " .. why }, { json.decode(text) })
    end
  end)

  it("says what has no form in it, and where that is", function()
    local t, two = {}, {}
    t.t = t
    two[1], two[2] = two, two -- a walk without memory would end never
    for what, value in pairs {
      ["a table inside itself has no form in JSON (at t)"] = t, ["a table inside itself has no form in JSON (at [1])"] = two,
      ["a function has no form in JSON"] = print, ["nan has no form in JSON"] = 0 / 0,
        ["-inf has no form in JSON (at a[2]['b c'])"] = { a = { 1, { ["b c"] = -1 / 0 } } },
      ["a key that is a boolean has no form in JSON (at x)"] = { x = { [true] = 1 } },
      ["a table with the key 1 as a number and as a string has no form in JSON"] = { 1, ["1"] = 2 },
      ["a userdata has no form in JSON (at [1])"] = { io.stdout },
    } do
      local fine, why = pcall(json.encode, value)
      assert.is_false(fine)
      assert.equal((what:gsub("'", '"')), (why:gsub("^" .. support.file() .. ":%d+: ", "")))
    end
    local encoded = tidepool.App "json":func(function(x)
      local text = json.encode { a = { [{}] = x } }
      return text
    end)
    local info = debug.getinfo(encoded.raw, "S")
    local why = support.failure_of(encoded.remote, encoded, 1).message
    assert.equal(("%s:%d: a key that is a table has no form in JSON (at a)"):format(info.short_src, info.linedefined + 1), why)
    support.mistake(function() return json.decode(nil), 1 end, "json.decode: expected a string, got nil")
    support.mistake(function() return json.list "x", 1 end, "json.list: expected a table, got the string")
    support.mistake(function() return json.object(), 1 end, "json.object: expected a table, got nil")
    assert.equal("[[1],[1]]", (function() local one = { 1 } return json.encode { one, one } end)())
  end)

  it("has marks that are the same in workers", function()
    local app = tidepool.App "json"
    local same = app:func(function(value) return value end)
    local looks = app:func(function(value) return value.a == require "tidepool".null, #value.b, next(value.b) == nil,
      require "tidepool.json".encode(value) end)
    local _, value = json.decode '{"a":null,"b":[],"c":{"n":1},"d":{}}'
    assert.same({ true, 0, true, '{"a":null,"b":[],"c":{"n":1},"d":{}}' }, { looks:remote(value) })
    local back = same:remote(value)
    assert.equal(tidepool.null, back.a)
    assert.equal('{"a":null,"b":[],"c":{"n":1},"d":{}}', json.encode(back))
    assert.equal(getmetatable(value.b), getmetatable(back.b))
    assert.equal(tidepool.null, (same:remote(tidepool.null)))
    assert.same({ null, 1, null }, { unpack(same:map({ null, 1, null }):list()) })
  end)

  it("takes cjson's null, and its own for cjson's", function()
    assert.equal(cjson.null, tidepool.null)
    local f = tidepool.App "json":func(function(text)
      local decoded = require "cjson".decode(text)
      return decoded, decoded.a == require "tidepool".null
    end)
    local value, is_null = f:remote '{"a":null}'
    assert.same({ { a = cjson.null }, true }, { value, is_null })
    assert.equal('{"a":null}', json.encode(value))
    assert.equal('{"a":null}', (tidepool.App "json":func(function(v) return require "cjson".encode(v) end):remote { a = tidepool.null }))
  end)

  it("obeys the marks of others, and its own by hand", function()
    assert.equal('{"a":[],"b":{}}', json.encode { a = setmetatable({}, { __jsontype = "array" }), b = setmetatable({}, { __jsontype = "object" }) })
    assert.equal("[]", json.encode(json.list {}))
    assert.equal('{"1":5}', json.encode(json.object { 5 }))
    local grown = json.list {}
    grown[1] = 7
    assert.equal("[7]", json.encode(grown))
    grown.x = 8
    contains(json.encode(grown), '"x":8', '"1":7') -- nothing is dropped
  end)
end)
