-- What `make lint` asks of our Lua code.
std = "luajit"
max_line_length = 150
ignore = {
  "581", -- not (x >= y): is how NaN is refused
  "212/self", -- a method may do without
}
files["tests"] = { std = "+busted" }
files["lua/tidepool/program/run.lua"] = { globals = { "arg" } } -- a script's arguments are set for it
files["lua/tidepool/engine/worker.lua"] = { globals = { "print", "os.exit", "os.execute" } } -- has its own
files["lua/tidepool/host/embed.lua"] = { globals = { "print", "os.exit" } } -- likewise
files["scripts/busted-report.lua"] = { ignore = { "212" } }
files["examples/nvim"] = { read_globals = { "vim" } }
files["lua/tidepool/host/nvim.lua"] = { read_globals = { "vim" } }
files["bench/peers/luv.lua"] = { read_globals = { "vim" } }
