-- messages.lua: the messages of error and assert: texts that are known beforehand, and numbers that
-- the device computes; and the place that a message tells.

local abi = require "tidepool.base.abi"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"
local trees = require "tidepool.translate.trees"
local types = require "tidepool.translate.infer.types"
local walk = require "tidepool.translate.infer.walk"

local messages = {}

local refuse = functions.refuse
local static_of, string_of = statics.static_of, statics.string_of
local numeric = types.numeric
local expr = walk.expr

local NUMBERS_MAX = abi.KERNEL_DETAILS_MAX

-- What a node of a message is: "text", which message_pieces takes apart, or "number", which is
-- computed; nil: neither. Also the node without parentheses.
local function message_part(inst, node)
    node = trees.bare(node)
    local tag = node.tag
    if tag == "Symbol" then return nil, node end
    if tag == "Binop" and node.op == ".." or tag == "Method" and node.name == "format" or string_of(inst, node) then return "text", node end
    local callee = tag == "Call" and static_of(inst, node.callee)
    if callee and (callee.value == tostring or callee.value == string.format) then return "text", node end
    local static = static_of(inst, node)
    if tag == "Table" or tag == "Function" or static and type(static.value) ~= "number" then return nil, node end
    -- a choice of texts is neither
    local is_choice = tag == "And" or tag == "Or"
    if is_choice and (message_part(inst, node.left) == "text" or message_part(inst, node.right) ~= "number") then return nil, node end
    return "number", node
end

-- Takes the message of error or assert apart: strings, and numbers with their format: { format =,
-- static = }, a captured one, and { format =, node =, is_boolean = }, which are computed on the
-- device and are also in pieces.numbers. `what`: whose message it is.
local function message_pieces(inst, node, flow, what, pieces)
    local function refuse_message(at, why)
        refuse(inst, at, "the message of %s %s; it is made of texts that are known beforehand and of numbers, by .., tostring and string.format",
            what, why)
    end
    local function add_number(at, format)
        at = trees.bare(at)
        local static = static_of(inst, at)
        if at.tag == "Number" then
            pieces[#pieces + 1] = format:format(at.value)
            return
        elseif static and type(static.value) == "number" then
            pieces[#pieces + 1] = { format = format, static = static }
            return
        end
        local kind = expr(inst, at, flow)
        local is_boolean = kind == "bool" and format:find "s$" ~= nil
        if not is_boolean then numeric(inst, at, kind, "a number in a message") end
        local numbers = pieces.numbers
        if #numbers == NUMBERS_MAX then
            refuse(inst, at, "the message of %s has more than %d numbers that are computed here; leave some out", what, NUMBERS_MAX)
        end
        local piece = { node = at, format = format, is_boolean = is_boolean }
        numbers[#numbers + 1], pieces[#pieces + 1] = piece, piece
    end
    local part
    part, node = message_part(inst, node)
    if part == "number" then return add_number(node, "%.14g") end
    local text = string_of(inst, node)
    local callee = node.tag == "Call" and static_of(inst, node.callee)
    local is_method = node.tag == "Method"
    if text then
        pieces[#pieces + 1] = text
    elseif not part then
        refuse_message(node, "is no text that a device has")
    elseif node.tag == "Binop" then
        message_pieces(inst, node.left, flow, what, pieces)
        message_pieces(inst, node.right, flow, what, pieces)
    elseif callee and callee.value == tostring then
        if #node.args ~= 1 then refuse_message(node, "calls tostring without a value") end
        if message_part(inst, node.args[1]) == "text" then return message_pieces(inst, node.args[1], flow, what, pieces) end
        add_number(node.args[1], "%s")
    else
        local template = node.object or node.args[1]
        template = trees.bare(template)
        local format, used = template and string_of(inst, template), is_method and 0 or 1
        if not format then refuse_message(node, "has a format that is not known beforehand") end
        local at = 1
        while at <= #format do
            local plain = format:match("^[^%%]+", at) or format:match("^%%%%", at)
            if plain then
                pieces[#pieces + 1] = plain == "%%" and "%" or plain
            else
                plain = format:match("^%%[-+ #0]*%d?%d?%.?%d?%d?[diuoxXeEfgGsq]", at)
                used = used + 1
                if not plain then refuse_message(node, ("has the conversion '%s'"):format(format:match("^%%[^%a]*.?", at))) end
                local value = node.args[used]
                if not value then refuse_message(node, ("has no value for '%s'"):format(plain)) end
                local string = plain:find "[sq]$" and string_of(inst, value)
                if string then
                    pieces[#pieces + 1] = plain:format(string)
                elseif plain == "%s" and message_part(inst, value) == "text" then
                    message_pieces(inst, value, flow, what, pieces)
                else
                    value = trees.bare(value)
                    local inner = value.tag == "Call" and plain:find "s$" and static_of(inst, value.callee)
                    add_number(inner and inner.value == tostring and value.args[1] or value, plain)
                end
            end
            at = at + #plain
        end
    end
end

-- The failure of an error or assert: its number, and the nodes of the numbers in its message.
function messages.message_failure(inst, at, node, flow, what, prefix)
    local pieces = { prefix, numbers = {} }
    message_pieces(inst, node, flow, what, pieces)
    local text, dynamic, nodes = {}, false, {}
    for i, piece in ipairs(pieces) do
        dynamic = dynamic or type(piece) == "table"
        text[i] = type(piece) == "table"
            and piece.format .. tostring(piece.static and piece.static.key or piece.node.line) .. tostring(piece.is_boolean) or piece
        if not dynamic and piece:find "%z" then refuse(inst, at, "the message of %s has a byte 0", what) end
    end
    for d, piece in ipairs(pieces.numbers) do nodes[d] = piece.node end
    local code = inst:failure(dynamic and "message" or "error", at, table.concat(text))
    if dynamic then inst.program.failures[code].pieces = pieces end
    return code, nodes
end

local function place_in_text(inst, node) return ("%s:%d: "):format((node.source or inst.fn.source).file, node.line) end
messages.place_in_text = place_in_text

-- Where error(message, level) says that it was raised. Nothing calls the function that is mapped,
-- and of others the place of the call is known if it is no tail call.
function messages.place_of_error(inst, node, level)
    local count = level and level.value or 1
    if count == 0 then return "" end
    -- `return error(...)` takes the place of the function itself
    if node.is_tail then count = count + 1 end
    if count == 1 then return place_in_text(inst, node) end
    local place = node.caller_place or (inst.called_at and inst.caller_place or not inst.called_at and "")
    if not place or place ~= "" and count > 2 then
        refuse(inst, level or node, "error at this level, of which the place is not known here; use 0, 1, or 2 in a function that is not called by "
            .. "`return %s(...)`", inst.name or "f")
    end
    return place
end

return messages
