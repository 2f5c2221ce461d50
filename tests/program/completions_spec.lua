--- What is installed for the shell: completions for bash and zsh, and the manual page.

require "tidepool" -- first: its inner modules are there once it is
local executors = require "tidepool.engine.executors"
local lfs = require "lfs"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains, quote, run = support.contains, shell.quote, shell.run
local here = lfs.currentdir()

local job = [[
local app = require "tidepool".App "p"
local square = app:func { retries = 1 } (function(x) return x end)
app:func { name = "other.name" } (function(x) return x end)
app:main(function() end)
app:main { name = 'second', args = {} } (function() end)
]]

--- What bash offers for the end of a line, sorted.
local function bash(line)
  local words = {}
  for word in line:gmatch "[^%s:=]+" do words[#words + 1] = quote(word) end
  if line:find "[%s:=]$" then words[#words + 1] = "''" end
  local done = run(([[bash -c '. "$1"; compopt() { :; }; COMP_LINE=$2; COMP_POINT=${#2}; shift 2; COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1)); _tidepool; printf "%%s\n" "${COMPREPLY[@]}" | sort' bash %s %s %s]]):format(
    quote(here .. "/completions/tidepool.bash"), quote(line), table.concat(words, " ")),
    { ["job.lua"] = job, ["with space.lua"] = "", ["notes.txt"] = "" })
  assert.equal("", done.stderr)
  return (done.stdout:gsub("\n$", ""):gsub("\n", ","))
end

describe("completion in bash", function()
  it("knows commands, scripts and options", function()
    assert.equal("attach,cache,cancel,devices,engine,help,job.lua,jobs,journal,map,new,replay,run,with space.lua,worker", bash "tidepool ")
    assert.equal("run", bash "tidepool ru")
    assert.equal("job.lua", bash "tidepool run j")
    assert.equal("attach,cache,cancel,devices,engine,jobs,journal,map,new,replay,run,worker", bash "tidepool help ")
    assert.equal("--help", bash "tidepool cancel -")
    assert.equal("notes.txt", bash "tidepool journal n")
    assert.equal("failures", bash "tidepool journal notes.txt f")
    assert.equal("--help,--json", bash "tidepool replay --")
    assert.equal("forget", bash "tidepool cache f")
    assert.equal("--help,--json", bash "tidepool devices --")
    assert.equal("down,gc,status,token,up", bash "tidepool engine ")
    assert.equal("--coordinator,--dir,--for,--help,--listen,--monitor,--revoke", bash "tidepool engine --")
    assert.equal("--engine,--grace,--help,--hosts,--idle-exit,--workers", bash "tidepool worker --")
    local names = {}
    for i, one in ipairs(executors.that "runs_lua") do names[i] = one.name end
    table.sort(names)
    assert.equal(table.concat(names, ","), bash "tidepool --executor ")
    assert.equal("--json", bash "tidepool run --js")
    assert.equal("--journal", bash "tidepool run --jo")
    assert.equal("--keep-going", bash "tidepool map --k")
    assert.equal("--retry-failed", bash "tidepool map --ret")
    assert.equal("", bash "tidepool map --results j")
    assert.equal("", bash "tidepool map --columns j")
    assert.equal("--verbose,--version", bash "tidepool --v")
    assert.equal("json,line,off,plain", bash "tidepool --progress=")
    assert.equal("1,16", bash "tidepool --workers 1")
  end)

  it("knows the names in a file", function()
    assert.equal("main,other.name,second,square", bash "tidepool run job.lua::")
    assert.equal("second,square", bash "tidepool map job.lua::s")
  end)
end)

describe("completion in zsh", function()
  if os.execute "command -v zsh >/dev/null 2>&1" ~= 0 then
    pending "zsh is not installed"
    return
  end

  it("is a function that zsh can load", function()
    local done = run("zsh -fn " .. quote(here .. "/completions/_tidepool"))
    assert.same({ 0, "" }, { done.code, done.stderr })
  end)

  it("completes at a prompt", function()
    if os.execute "command -v tmux >/dev/null 2>&1" ~= 0 then return pending "tmux is not installed" end
    local terminal = shell.terminal(("cp %s/completions/_tidepool .; printf '%%s' %s >job.lua\nPS1='%%%% ' zsh -f"):format(quote(here), quote(job)))
    finally(function() terminal:close() end)
    terminal:line("fpath=($PWD $fpath); autoload -U compinit; compinit -u -d $PWD/dump; echo ready", "\nready\n")
    terminal:type "tidepool run --no-pr"
    terminal:press("Tab", "tidepool run --no-progress")
    terminal:type " jo"
    terminal:press("Tab", "job.lua")
    terminal:press "C-u"
    terminal:type "tidepool map job.lua::sq"
    terminal:press("Tab", "job.lua::square")
  end)
end)

describe("the help, the manual page and the completions", function()
  --- The options in a text, by a pattern, as a sorted list without what comes after "=".
  local function options_in(text, pattern)
    local set, list = {}, {}
    for option in text:gmatch(pattern) do set[option:match "^[^=]*"] = true end
    for option in pairs(set) do list[#list + 1] = option end
    table.sort(list)
    return list
  end

  --- Those that a help text lists, one to a line.
  local function in_help(topics)
    return options_in(run("for topic in " .. topics .. "; do $T help $topic; done").stdout, "\n  (%-%-?%a[%a-]*)")
  end

  it("name the same options", function()
    local all = in_help "'' map devices engine worker"
    assert.equal(49, #all)
    assert.same(all, options_in(support.read_file "completions/_tidepool":gsub("%-%[", "["), "'%*?(%-%-?%a[%a-]*)"))
    local page = support.read_file "man/tidepool.1":match "\n%.SH OPTIONS(.*)\n%.SH THE SESSION":gsub("\\%-", "-")
    page = page:gsub("\n[^.][^\n]*", "")
    local in_fish = {}
    for line in support.read_file "completions/tidepool.fish":gmatch "\ncomplete ([^\n]*)" do
      in_fish[#in_fish + 1] = (line:gsub('%b""', ""):gsub("%-s (%a)%f[%A]", ",-%1,"):gsub("%-l (%a[%a-]*)", ",--%1,"):gsub(" %-[^,%s]+", ""))
    end
    assert.same(all, options_in(table.concat(in_fish), ",(%-%-?%a[%a-]*),"))
    assert.same(all, options_in(page, "[ ,](%-%-?%a[%a-]*)"))
    assert.same(in_help "''", options_in(bash "tidepool -" .. ",", "(%-[^,]+),"))
    assert.same(in_help "'' map", options_in(bash "tidepool map --" .. "," .. bash "tidepool -" .. ",", "(%-[^,]+),"))
    assert.same({ "--color", "--dashboard", "--detach", "--engine", "--executor", "--explain", "--help", "--journal", "--json", "--log",
      "--no-progress", "--profile", "--progress", "--quiet", "--report", "--trace",
      "--workers" }, options_in(bash "tidepool run --" .. ",", "(%-[^,]+),"))
  end)
end)

describe("the manual page", function()
  it("is well-formed, and names every option of the help", function()
    local page = support.read_file "man/tidepool.1"
    local done = run("groff -man -Tutf8 -ww " .. quote(here .. "/man/tidepool.1") .. " | col -b")
    if done.code == 0 and done.stdout ~= "" then
      assert.equal("", done.stderr)
      contains(done.stdout, "NAME", "EXIT STATUS")
    end
    for option in run("$T --help; $T help map").stdout:gmatch "%f[%w-](%-%-[%a-]+)" do
      contains(page, (option:gsub("%-", "\\-")))
    end
    contains(page, "Tidepool " .. run("$T --version").stdout:match "Tidepool (%S+)")
  end)
end)

describe("make install-cli", function()
  it("puts them where the shells look", function()
    local dir = support.temp_dir()
    local done = run(("make -s -C %s install-cli DESTDIR=%s PREFIX=/usr -o all"):format(quote(here), quote(dir)))
    assert.same({ 0, "" }, { done.code, done.stderr })
    for _, path in ipairs { "man/man1/tidepool.1", "bash-completion/completions/tidepool", "zsh/site-functions/_tidepool",
      "fish/vendor_completions.d/tidepool.fish" } do
      assert.equal("file", lfs.attributes(dir .. "/usr/share/" .. path, "mode"))
    end
  end)
end)
