--- What all sources of inputs share that pack them in columns: sizes of blocks, and ctypes of what core gives.

local core = require "tidepool.core"
local ffi = require "ffi"
local mixed = require "tidepool.engine.mixed"

local columns = {}

columns.numbers_type, columns.pointers_type = ffi.typeof "double *", ffi.typeof "void **"

-- A source that gives way does so after this time.
local GIVE_WAY_S = 0.005

--- When fill is to return, for a source that gives way.
function columns.deadline(source)
  return source.gives_way and core.loop.now() + GIVE_WAY_S or math.huge
end

--- Is it that late?
function columns.is_late(deadline)
  return deadline < math.huge and core.loop.now() > deadline
end

-- A block of numbers starts small, so that work begins early, and grows.
columns.FIRST_BLOCK = 512
local LARGEST_BLOCK = 16384
columns.LARGEST_BLOCK = LARGEST_BLOCK

--- How many numbers the block after one of `size` may have.
function columns.next_block(size)
  return math.min(size * 4, LARGEST_BLOCK)
end

-- Text that columns of scalars may need: TEXT_MIN bytes, and a bit more per string than those of the block before had.
local TEXT_MIN, TEXT_MAX = 4096, 2 ^ 20

-- What an item's strings are taken to need before any was seen, in bytes.
columns.FIRST_TEXT = 16

--- How many bytes of text to ask for, for the columns of `count` items: `per_item` is what the last block's had.
local function text_for(count, per_item)
  return math.min(TEXT_MAX, math.ceil(TEXT_MIN + count * (per_item * 1.25 + 16)))
end

--- Columns of up to `count` items for core.job.push_columns, one for each letter of `kinds`: a pointer to their pointers, and the text of
--- columns of scalars, which have `per_item`: how much an item's strings took in the last block.
function columns.open(job, count, kinds, per_item)
  local pointers, text = core.job.columns(job, count, kinds, per_item and text_for(count, per_item) or 0)
  return ffi.cast(columns.pointers_type, pointers), ffi.cast(mixed.text, text)
end

--- An item that could not be added, as core.job.add says, fails by itself; the others go on.
function columns.push_unsent(job, why, kind)
  core.job.push(job)
  core.job.push_failure(job, kind, why)
end

return columns
