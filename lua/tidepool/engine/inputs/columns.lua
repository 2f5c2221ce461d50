--- What the sources that pack inputs into columns share: sizes of blocks, and the ctypes of core's
--- pointers.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"
local mixed = require "tidepool.engine.mixed"

local columns = {}

columns.numbers_type, columns.pointers_type = ffi.typeof "double *", ffi.typeof "void **"

-- How long a source that gives way may read.
local GIVE_WAY_S = 0.005

--- When fill must return, if the source gives way.
function columns.deadline(source)
  return source.gives_way and core.loop.now() + GIVE_WAY_S or math.huge
end

--- Has that time passed?
function columns.is_late(deadline)
  return deadline < math.huge and core.loop.now() > deadline
end

-- The first block of numbers is small, so that work begins early; later ones are larger.
columns.FIRST_BLOCK = 512
local LARGEST_BLOCK = 16384
columns.LARGEST_BLOCK = LARGEST_BLOCK

--- How many numbers the block after one of `size` numbers may have.
function columns.next_block(size)
  return math.min(size * 4, LARGEST_BLOCK)
end

-- Bytes of text for columns of scalars: TEXT_MIN, and for each item somewhat more than the last
-- block needed.
local TEXT_MIN, TEXT_MAX = 4096, 2 ^ 20

-- How many bytes an item's strings are assumed to need before any was seen.
columns.FIRST_TEXT = 16

--- How many bytes of text to ask for, for `count` items that need as much as those of the last
--- block did (`per_item`).
local function text_for(count, per_item)
  return math.min(TEXT_MAX, math.ceil(TEXT_MIN + count * (per_item * 1.25 + 16)))
end

--- Opens columns for up to `count` items, one for each letter of `kinds`, for
--- core.job.push_columns. Gives a pointer to their pointers, and the text of columns of scalars;
--- `per_item` is how much text an item needed in the last block.
function columns.open(job, count, kinds, per_item)
  local pointers, text = core.job.columns(job, count, kinds, per_item and text_for(count, per_item) or 0)
  return ffi.cast(columns.pointers_type, pointers), ffi.cast(mixed.text, text)
end

--- Pushes an item that core.job.add could not encode, as a failure of its own; the others go on.
--- Its place is that of the map, whoever reads its inputs now.
function columns.push_unsent(source, job, why, kind)
  core.job.push(job)
  core.job.push_failure(job, kind, check.placed(why, source.place))
end

return columns
