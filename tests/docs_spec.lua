--- The documentation (not stock): each block of code in README.md and docs/ is run, and prints what
-- the block behind it shows; or it is marked as a fragment, with a reason:
--
--   <!-- fragment: the reason -->      before a block: it is only compiled, if it is Lua
--   <!-- with                          before a block: code that it needs, which readers do not see
--   local x = 1
--   -->
--
-- A shown output is a block `text` right behind; "..." in it stands for any text. A block of Lua
-- that requires nothing begins with `tidepool` and `app` being there.

local lfs = require "lfs"
local support = require "tests.support"

if support.sanitized then return end -- examples of users, who have the plain build

local pages = { "README.md" }
for name in lfs.dir "docs" do
  if name:find "%.md$" then pages[#pages + 1] = "docs/" .. name end
end
table.sort(pages)

--- The blocks of a page: { language, text, line, fragment, with, shown }.
local function blocks_of(page)
  local blocks, open, number, comment = {}, nil, 0, nil
  local mark, hidden
  for line in (support.read_file(page) .. "\n"):gmatch "(.-)\r?\n" do
    number = number + 1
    local language = line:match "^%s*```(.*)$"
    if comment then
      if line:find "%-%->" then hidden, comment = table.concat(comment, "\n"), nil else comment[#comment + 1] = line end
    elseif open and language then
      open.text = table.concat(open, "\n") .. "\n"
      local before = blocks[#blocks]
      if open.language == "text" and before and before.ends == open.line - 2 then before.shown = open.text else blocks[#blocks + 1] = open end
      open.ends, open = number, nil
    elseif open then
      open[#open + 1] = line
    elseif language then
      open = { language = language, line = number, fragment = mark, with = hidden }
      mark, hidden = nil, nil
    elseif line:find "^<!%-%- with%s*$" then
      comment = {}
    elseif line:find "^<!%-%- fragment" then
      mark = line:match "^<!%-%- fragment: (.+) %-%->$" or false
    elseif line ~= "" then
      mark, hidden = nil, nil
    end
  end
  assert.is_nil(open, page .. ": a block is not closed")
  return blocks
end

--- A Lua pattern for a shown text.
local function pattern_of(shown)
  local parts = {}
  for part, dots in (shown:gsub("%.%.%.", "\1") .. "\2"):gmatch "([^\1\2]*)([\1\2])" do
    parts[#parts + 1] = part:gsub("%p", "%%%0")
    if dots == "\1" then parts[#parts + 1] = ".-" end
  end
  return "^" .. table.concat(parts) .. "$"
end

local HEADER = 'local tidepool = require "tidepool" local app = tidepool.App "docs" '

local function run(block, where)
  local dir = support.temp_dir()
  local header = block.text:find('require "tidepool"', 1, true) and "" or HEADER
  local file = assert(io.open(dir .. "/page.lua", "w"))
  file:write(header, block.with or "", " ", block.text)
  file:close()
  local root = lfs.currentdir()
  local pipe = assert(io.popen(("cd %s && TIDEPOOL_ROOT=%s timeout 400 %s --executor threads page.lua 2>errors </dev/null; echo \" $?\"")
    :format(dir, root, support.binary)))
  local printed, exit = pipe:read("*a"):match "^(.*) (%d+)\n$"
  pipe:close()
  local errors = support.read_file(dir .. "/errors")
  assert(exit == "0", ("%s: exit code %s\n%s%s"):format(where, exit, printed, errors))
  if block.shown then
    assert(printed:find(pattern_of(block.shown)), ("%s: it prints\n%sand shows\n%s%s"):format(where, printed, block.shown, errors))
  end
end

describe("The documentation's code", function()
  for _, page in ipairs(pages) do
    for _, block in ipairs(blocks_of(page)) do
      local where = ("%s:%d"):format(page, block.line)
      if block.language == "lua" then
        it(where .. (block.fragment == nil and " runs" or " is Lua"), function()
          if block.fragment == nil then
            if (block.text .. (block.with or "")):find "gpu" and not require("tidepool").devices()[1] then return pending "no OpenCL device" end
            return run(block, where)
          end
          assert(block.fragment, where .. ": a fragment needs a reason")
          -- "..." stands for what is left out, as a statement or as a value
          local text = block.text:gsub("%f[%.]%.%.%.%f[^%.](%s+end)", "%1"):gsub("do %.%.%. end", "do end"):gsub("%%s*%.%.%.%s*$", "")
          assert(loadstring("return function(...) " .. text .. "\nend", "=" .. where) or loadstring(text, "=" .. where))
        end)
      elseif block.language ~= "" and block.language ~= "text" then
        it(where .. " is marked as a fragment, or tested elsewhere", function()
          assert(block.language == "c" or block.fragment, ("%s: a block of %s is not run: say why (<!-- fragment: ... -->)")
            :format(where, block.language))
        end)
      end
    end
  end
end)

describe("The documentation", function()
  it("names pages, files and sections that exist", function()
    local anchors = {}
    local function anchors_of(path)
      if not anchors[path] then
        local list = {}
        for line in (support.read_file(path) or ""):gmatch "[^\n]+" do
          local title = line:match "^#+ (.+)$"
          if title then list[title:lower():gsub("[^%w%- _]", ""):gsub(" ", "-")] = true end
        end
        anchors[path] = list
      end
      return anchors[path]
    end
    local wrong = {}
    for _, page in ipairs(pages) do
      local text = support.read_file(page):gsub("\n```.-\n```", "")
      for target in text:gmatch "%]%(([^)%s]+)%)" do
        if not target:find "^https?:" then
          local path, anchor = target:match "^([^#]*)#?(.*)$"
          local folder = page:match "^(.*/)" or ""
          local full = path == "" and page or folder .. path
          if not lfs.attributes(full) then
            wrong[#wrong + 1] = page .. ": " .. target
          elseif anchor ~= "" and not anchors_of(full:gsub("^docs/%.%./", ""))[anchor] then
            wrong[#wrong + 1] = page .. ": " .. target .. " (no such section)"
          end
        end
      end
    end
    assert.same({}, wrong)
  end)

  it("begins with a README of at most 250 lines", function()
    local _, lines = support.read_file "README.md":gsub("\n", "")
    assert(lines <= 250, "README.md has " .. lines .. " lines")
  end)

  it("has a link from the README to every page", function()
    local text, missing = support.read_file "README.md", {}
    for _, page in ipairs(pages) do
      if page ~= "README.md" and not text:find("](" .. page, 1, true) then missing[#missing + 1] = page end
    end
    assert.same({}, missing)
  end)

  it("names every option of functions and of maps, and every kind of failure", function()
    local options, abi = require "tidepool.options", require "tidepool.base.abi"
    local text, missing = support.read_file "docs/functions.md", {}
    for _, rows in ipairs { options.of_functions, options.of_calls, options.of_for_each } do
      for _, row in ipairs(rows) do
        if not text:find("[`{ ]" .. row[1] .. "[` =]") then missing[#missing + 1] = row[1] end
      end
    end
    text = support.read_file "docs/errors.md"
    for _, kind in pairs(abi.kind) do -- each has a row in the table
      if not text:find('\n| `"' .. kind .. '"` |', 1, true) then missing[#missing + 1] = "kind " .. kind end
    end
    table.sort(missing)
    assert.same({}, missing)
  end)

  it("names every variable of the environment that is read", function()
    local text, missing = support.read_file "docs/command-line.md", {}
    local pipe = assert(io.popen "grep -rhoE 'TIDEPOOL_[A-Z_]+\"' host/program lua/tidepool | sort -u")
    for name in pipe:read("*a"):gmatch 'TIDEPOOL_[%u_]+' do
      if not text:find(name, 1, true) then missing[#missing + 1] = name end
    end
    pipe:close()
    assert.same({}, missing)
  end)
end)
