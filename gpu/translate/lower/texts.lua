-- texts.lua: bytes and lengths of texts that are captured, or that stand in the function. The bytes
-- go to the device as a list of numbers.

local inlining = require "tidepool.translate.lower.inlining"
local nodes = require "tidepool.translate.lower.nodes"
local statics = require "tidepool.translate.lower.statics"

local texts = {}

local fixed, hold, number, refuse, scalar = nodes.fixed, nodes.hold, nodes.number, nodes.refuse, nodes.scalar
local inline, own_functions = inlining.inline, inlining.own_functions
local derived, has_element, static_element = statics.derived, statics.has_element, statics.static_element

--- The text that a value is, as a value of the host; nil of other values.
function texts.text_of(value)
    local node = value and value.t == "scalar" and value.node
    if not node then return end
    if node.tag == "Fixed" and type(node.static.value) == "string" then return node.static end
    if node.tag ~= "String" then return end
    local text = node.value
    return { path = ("%q"):format(text), key = "text " .. text, value = text, read = function() return text end }
end

--- The length of a text: a scalar.
function texts.length(L, at, text)
    return scalar(fixed(L, at, derived(text, "#" .. text.path, "length", function(now) return #now end)))
end

-- As string.byte does it: the part behind the point is cut off, and indices below 0 count from the
-- end.
local index_text = [[
return function(length, i)
  local part = i % 1
  if part > 0 then
    i = i - part
    if i < 0 then i = i + 1 end
  end
  if i < 0 then i = i + length + 1 end
  return i
end]]

local index_of = own_functions("string.byte", index_text)

-- By text, as long as they are in use: they are asked for in each round here, and for each map.
local lists = setmetatable({}, { __mode = "v" })

local function bytes_of(text)
    local list = lists[text]
    if not list then
        list = {}
        for k = 1, #text do list[k] = text:byte(k) end
        lists[text] = list
    end
    return list
end

--- What string.byte of a text gives for one index: whether there is such a byte, a condition, and
--- the byte. `args`: the values behind the text.
function texts.byte(L, at, text, args)
    if #args > 1 then refuse(L, at, "string.byte of several bytes; on a device take them one by one") end
    if #text.value == 0 then refuse(L, at, "a byte of '%s', which is empty", text.path) end
    local i = args[1] or scalar(number(L, at, 1))
    if i.t ~= "scalar" then refuse(L, at, "string.byte with an index that is no number") end
    local bytes = derived(text, text.path, "bytes", bytes_of)
    local constant = i.node.tag == "Number" and i.node.value
    local key = constant and constant >= 1 and constant % 1 == 0 and i.node
        or hold(L, at, inline(L, at, index_of, { texts.length(L, at, text), i })[1].node, "index")
    return has_element(L, at, bytes, key), static_element(L, at, bytes, key)
end

return texts
