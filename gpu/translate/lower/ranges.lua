-- ranges.lua: the least and the greatest value of an expression, { lo, hi, is_whole }; nil when not
-- known.
--
-- Of a local: `range`, and where that is another one `full`. The first leaves out what is added to
-- the ends of the lists in `lengths`, of which `#` bounds the local: it tells how far a list is
-- written that is changed in a loop over itself. The second is always true.

local classes = require "tidepool.translate.lower.classes"

local bit = require "bit"

local ranges = {}

local range_of

-- Does the range of a variable that is assigned to bound the expression? Such a range holds, but is
-- wide.
local function is_rough(node)
    if node.tag == "Name" then return node.var ~= nil and (node.var.assigned or node.var.is_rough) or false end
    if node.tag == "Binop" then return is_rough(node.left) or (node.op ~= "%" and is_rough(node.right)) end
    if node.tag == "Unop" or node.tag == "Paren" then return is_rough(node.expr) end
    if node.tag == "Call" then
        for _, arg in ipairs(node.args) do if is_rough(arg) then return true end end
    end
    return false
end
ranges.is_rough = is_rough

--- Is one of the lists that of this class?
function ranges.has_class(lengths, class)
    for _, each in ipairs(lengths or {}) do
        if classes.find(each) == classes.find(class) then return true end
    end
    return false
end

-- Two lists of classes, as one; nil: none.
local function merged(a, b)
    if not a or not b or a == b then return a or b end
    local list = { unpack(a) }
    for _, class in ipairs(b) do
        if not ranges.has_class(list, class) then list[#list + 1] = class end
    end
    return list
end
ranges.merged = merged

--- The classes of the lists to which something is added, and whose lengths bound the expression;
--- nil when there are none.
local function lengths_of(node)
    if node.tag == "Name" then return node.var and node.var.lengths end
    if node.tag == "Unop" or node.tag == "Paren" then return lengths_of(node.expr) end
    if node.left then return merged(lengths_of(node.left), lengths_of(node.right)) end
    local list
    for _, arg in ipairs(node.tag == "Call" and node.args or {}) do list = merged(list, lengths_of(arg)) end
    return list
end
ranges.lengths_of = lengths_of

--- Is one of the lists of unknown length?
function ranges.is_open(lengths)
    for _, each in ipairs(lengths or {}) do
        if classes.find(each).open then return true end
    end
    return false
end

-- The line of the loop with an unknown limit whose counter the expression is, plus or minus
-- something.
local function open_loop(node)
    if node.tag == "Name" then return node.var and node.var.loop end
    if node.tag == "Paren" then return open_loop(node.expr) end
    if node.tag == "Binop" and (node.op == "+" or node.op == "-") then return open_loop(node.left) or open_loop(node.right) end
end
ranges.open_loop = open_loop

function ranges.joined(a, b)
    return a and b and { math.min(a[1], b[1]), math.max(a[2], b[2]), a[3] and b[3] }
end

local function range_of_call(L, node)
    local static = node.callee.tag == "Fixed" and node.callee.static
    local value = static and static.value
    local a = node.args[1] and range_of(L, node.args[1])
    local b = node.args[2] and range_of(L, node.args[2])
    if value == math.floor then return a and { math.floor(a[1]), math.floor(a[2]), true } end
    if value == math.abs then return a and { 0, math.max(math.abs(a[1]), math.abs(a[2])), a[3] } end
    if value == math.min and #node.args == 2 then
        return a and b and { math.min(a[1], b[1]), math.min(a[2], b[2]), a[3] and b[3] }
    elseif value == math.max and #node.args == 2 then
        return a and b and { math.max(a[1], b[1]), math.max(a[2], b[2]), a[3] and b[3] }
    elseif value == bit.band and #node.args == 2 then
        local mask = b and b[1] == b[2] and b[1] or a and a[1] == a[2] and a[1]
        return mask and mask >= 0 and mask < 2 ^ 31 and { 0, mask, true } or nil
    end
end

---@return number[]?
function range_of(L, node)
    local tag = node.tag
    if tag == "Number" then return { node.value, node.value, node.value == math.floor(node.value) } end
    if tag == "Paren" then return range_of(L, node.expr) end
    if tag == "Name" then return node.var and (L.wants_full and node.var.full or node.var.range) end
    if tag == "Fixed" then
        local value = node.static.value
        if type(value) ~= "number" or value ~= value or math.abs(value) > 2 ^ 31 then return end
        L.program.baked[node.static.key] = node.static
        return { value, value, value == math.floor(value) }
    end
    if tag == "Call" then return range_of_call(L, node) end
    if tag == "Or" and node.left.tag == "And" then -- c and a or b, where a is a number
        return ranges.joined(range_of(L, node.left.right), range_of(L, node.right))
    end
    if tag == "Unop" and node.op == "#" and node.expr.tag == "Fixed" and type(node.expr.static.value) == "table" then
        local static = node.expr.static
        local count = #static.value
        L.program.baked["#" .. static.key] = { path = "#" .. static.path, value = count, read = function() return #static.read() end }
        return { count, count, true }
    end
    if tag == "Unop" and node.op == "-" then
        local a = range_of(L, node.expr)
        return a and { -a[2], -a[1], a[3] }
    elseif tag ~= "Binop" then
        return
    end
    local a, b, op = range_of(L, node.left), range_of(L, node.right), node.op
    if op == "%" then
        if not b or b[1] ~= b[2] or b[1] <= 0 then return end
        return a and a[3] and b[3] and { 0, b[1] - 1, true } or { 0, b[1], false }
    end
    if not a or not b then return end
    local whole = a[3] and b[3]
    if op == "+" then return { a[1] + b[1], a[2] + b[2], whole } end
    if op == "-" then return { a[1] - b[2], a[2] - b[1], whole } end
    if op == "*" or op == "/" then
        if op == "/" and (b[1] <= 0 and b[2] >= 0) then return end
        local list = op == "*" and { a[1] * b[1], a[1] * b[2], a[2] * b[1], a[2] * b[2] } or { a[1] / b[1], a[1] / b[2], a[2] / b[1], a[2] / b[2] }
        return { math.min(unpack(list)), math.max(unpack(list)), op == "*" and whole }
    end
end
ranges.range_of = range_of

--- The range that is always true.
function ranges.full_range_of(L, node)
    local outer = L.wants_full
    L.wants_full = true
    local range = range_of(L, node)
    L.wants_full = outer
    return range
end

--- How the expression goes on in a loop: "fixed", when it is known beforehand or a length, "next",
--- when it goes from one whole number to the next; nil when that is not seen.
function ranges.sequence_of(L, node)
    local tag = node.tag
    if tag == "Number" or tag == "Fixed" then return "fixed" end
    if tag == "Paren" then return ranges.sequence_of(L, node.expr) end
    if tag == "Name" then
        local var = node.var
        if not var then return end
        if var.turn and var.turn ~= L.asides then return end -- perhaps not in each turn
        return var.sequence
    end
    if tag ~= "Binop" or node.op ~= "+" and node.op ~= "-" then return end
    local a, b = ranges.sequence_of(L, node.left), ranges.sequence_of(L, node.right)
    if not a or not b or a == "next" and b == "next" then return end
    return a == "fixed" and b or a
end

--- Takes down what is known of the value of a local that is never assigned again.
function ranges.bound(L, var, node)
    var.range, var.lengths = range_of(L, node), lengths_of(node)
    var.full = var.lengths and ranges.full_range_of(L, node)
    var.sequence, var.turn = ranges.sequence_of(L, node), nil
    if var.sequence == "next" then var.turn = L.asides end
end

function ranges.is_inside(range, from, to)
    return range and range[3] and range[1] >= from and range[2] <= to
end

return ranges
